"""The figures of an evaluation, against values worked out by hand."""

import math

import pytest

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
