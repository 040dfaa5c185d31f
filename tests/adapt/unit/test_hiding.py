"""What training may show of a document for a query that was cut out of it."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from shortlist_adapt.hiding import CUT_OUT, visible, without
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery
from shortlist_adapt.synthesis.settings import ExtractiveSource

DOCUMENT = CorpusDocument(id="d", title="Hearts", text="They pump. They beat. They stop.")


def query(source: str, excluded: tuple[int, int] | None) -> TrainingQuery:
    return TrainingQuery(id="q", text="q", source=source, split=Split.TRAIN, positives={"d": 1}, excluded_text=excluded)


def test_every_source_that_cuts_queries_out_is_known() -> None:
    assert set(get_args(ExtractiveSource)) == CUT_OUT


def test_a_title_query_hides_the_title() -> None:
    assert visible(DOCUMENT, query("title", None)) == ("", DOCUMENT.text)


def test_a_sentence_query_hides_the_sentence() -> None:
    assert visible(DOCUMENT, query("cloze", (11, 21))) == ("Hearts", "They pump. They stop.")


def test_a_judged_query_hides_nothing() -> None:
    assert visible(DOCUMENT, query("judged", None)) == ("Hearts", DOCUMENT.text)


def test_the_joint_keeps_the_line_break_that_was_there() -> None:
    assert without("a\n\nb\n\nc", (3, 4)) == "a\n\nc"
    assert without("a\nb c", (2, 3)) == "a\nc"
    assert without("a b c", (0, 1)) == "b c"
    assert without("a b c", (4, 5)) == "a b"
    assert without("a", (0, 1)) == ""


@given(st.text(alphabet="ab \n", max_size=30), st.integers(0, 30), st.integers(0, 30))
def test_only_the_range_is_lost(text: str, first: int, second: int) -> None:
    start, end = sorted((min(first, len(text)), min(second, len(text))))
    kept = (text[:start] + " " + text[end:]).split()
    assert without(text, (start, end)).split() == kept
