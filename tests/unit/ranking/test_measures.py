"""The figures of an evaluation, against values worked out by hand."""

import math

import pytest

from shortlist_cli.evaluation.measuring import IngestFigures, new_texts, percentile, turned
from shortlist_server.ranking.measures import judge, judge_each


def test_measures_have_their_textbook_values() -> None:
    judged = judge({"q": ["x", "b", "a"]}, {"q": {"a": 1, "b": 2, "c": 1}})
    gains = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert judged["ndcg_at_10"] == pytest.approx(gains / ideal)
    assert judged["recall_at_100"] == pytest.approx(2 / 3)
    assert judged["mrr_at_10"] == pytest.approx(1 / 2)


def test_measures_are_cut_at_their_depth() -> None:
    ranking = [f"x{number:03}" for number in range(10)] + ["a"]
    judged = judge({"q": ranking}, {"q": {"a": 1}})
    assert judged == {"ndcg_at_10": 0.0, "recall_at_100": 1.0, "mrr_at_10": 0.0}


def test_the_order_given_counts_and_not_that_of_the_ids() -> None:
    assert judge({"q": ["z", "a"]}, {"q": {"z": 1}})["mrr_at_10"] == 1.0
    assert judge({"q": ["a", "z"]}, {"q": {"a": 1}})["mrr_at_10"] == 1.0


def test_a_query_without_hits_counts_as_zero() -> None:
    judged = judge({"found": ["a"], "lost": []}, {"found": {"a": 1}, "lost": {"b": 1}})
    assert judged == {"ndcg_at_10": 0.5, "recall_at_100": 0.5, "mrr_at_10": 0.5}


def test_each_query_has_its_own_figures() -> None:
    judged = judge_each({"found": ["a"], "lost": []}, {"found": {"a": 1}, "lost": {"b": 1}}, ["ndcg_at_10"])
    assert judged == {"found": {"ndcg_at_10": 1.0}, "lost": {"ndcg_at_10": 0.0}}


@pytest.mark.parametrize(
    ("places", "expected"), [(0, "a b c"), (1, "b c a"), (2, "c a b"), (3, "a  b  c"), (4, "b  c  a")]
)
def test_a_turned_query_has_the_same_words(places: int, expected: str) -> None:
    assert turned("a b c", places) == expected
    assert turned("a", places) == "a"
    assert turned("", places) == ""


def test_no_text_is_timed_that_a_server_has_seen() -> None:
    seen = ["owl night", "which bird hunts mice"]
    for turn in range(1, 9):
        warmup, timed = new_texts(["owl night", "which bird hunts mice"], turn)
        seen += [*warmup, *timed]
    assert len(set(seen)) == len(seen)
    assert {" ".join(sorted(text.split())) for text in seen} == {"night owl", "bird hunts mice which"}


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.0), (99, 4.0), (100, 4.0)])
def test_percentiles_are_values_that_were_measured(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == expected


def test_a_rate_of_ingest_is_given_only_when_everything_was_embedded() -> None:
    def figures(unchanged: int, durable: int) -> IngestFigures:
        return IngestFigures(
            seconds=2.0, durable=durable, unchanged=unchanged, failed=1, passages=0, tokens=0, failures=()
        )

    assert figures(unchanged=0, durable=10).documents_per_second == 5.0
    assert figures(unchanged=1, durable=10).documents_per_second is None
    assert figures(unchanged=0, durable=0).documents_per_second is None
