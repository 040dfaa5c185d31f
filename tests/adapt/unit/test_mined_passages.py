"""Which part of a document training reads."""

from __future__ import annotations

from shortlist_adapt.mining.passages import negative_content, positive_content, shortlisted_content
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery
from shortlist_adapt.searching import Found

FIRST = "Whales feed their young on milk that is thicker than that of cows."
SECOND = "They sleep with one half of the brain at a time, near the surface of the sea."
DOCUMENT = CorpusDocument(id="d", title="Whales", text=f"{FIRST} {SECOND}")
PASSAGES = ((len(FIRST) + 1, len(DOCUMENT.text)), (0, len(FIRST)))


def query(source: str = "judged", excluded: tuple[int, int] | None = None) -> TrainingQuery:
    return TrainingQuery(id="q", text="q", source=source, split=Split.TRAIN, positives={"d": 1}, excluded_text=excluded)


def found(*passages: tuple[int, int]) -> Found:
    return Found(id="d", score=1.0, cosine=0.5, dense_rank=1, lexical_rank=1, passages=passages)


def test_an_answer_is_the_best_passage_with_its_title() -> None:
    assert positive_content(DOCUMENT, query(), found(*PASSAGES)) == f"Whales\n{SECOND}"
    assert positive_content(DOCUMENT, query("title"), found(*PASSAGES)) == SECOND


def test_an_answer_that_was_not_found_is_whole() -> None:
    for missing in (None, found()):
        assert positive_content(DOCUMENT, query(), missing) == f"Whales\n{DOCUMENT.text}"


def test_an_answer_is_the_passage_that_the_query_was_cut_from_without_the_query() -> None:
    feed = (0, len("Whales feed"))
    assert positive_content(DOCUMENT, query("cloze", feed), found(*PASSAGES)) == f"Whales\n{FIRST[12:]}"


def test_a_passage_that_keeps_too_little_gives_way_to_the_rest_of_the_text() -> None:
    whole = (0, len(FIRST))
    assert positive_content(DOCUMENT, query("first-sentence", whole), found(*PASSAGES)) == f"Whales\n{SECOND}"


def test_a_negative_has_a_title_where_the_answer_has_one() -> None:
    assert negative_content(DOCUMENT, query(), found(*PASSAGES)) == f"Whales\n{SECOND}"
    assert negative_content(DOCUMENT, query("title"), found(*PASSAGES)) == SECOND
    assert negative_content(DOCUMENT, query("title"), found()) == DOCUMENT.text
    bare = CorpusDocument(id="d", title="Whales", text="")
    assert negative_content(bare, query("title"), found()) == "Whales"


def test_of_a_shortlist_only_answers_hide_the_query() -> None:
    feed = (0, len("Whales feed"))
    content = shortlisted_content(DOCUMENT, query("cloze", feed), found(*PASSAGES), {"d": 1})
    assert content == f"Whales\n{FIRST[12:]}"
    assert shortlisted_content(DOCUMENT, query("cloze", feed), found(*PASSAGES), {"e": 1}) == f"Whales\n{SECOND}"
