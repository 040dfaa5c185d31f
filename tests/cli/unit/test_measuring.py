"""How a measurement times searches and counts documents."""

import pytest

from shortlist_cli.evaluation.measuring import IngestFigures, percentile, rotated, rotated_texts


@pytest.mark.parametrize(
    ("places", "expected"), [(0, "a b c"), (1, "b c a"), (2, "c a b"), (3, "a  b  c"), (4, "b  c  a")]
)
def test_a_rotated_query_has_the_same_words(places: int, expected: str) -> None:
    assert rotated("a b c", places) == expected
    assert rotated("a", places) == "a"
    assert rotated("", places) == ""


def test_no_text_is_timed_that_a_server_has_seen() -> None:
    seen = ["owl night", "which bird hunts mice"]
    for rotation in range(1, 9):
        warmup, timed = rotated_texts(["owl night", "which bird hunts mice"], rotation)
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
