"""Drafts that become queries, and those that are dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist_adapt.corpus import Corpus
from shortlist_adapt.records import CorpusDocument, Split, write_lines
from shortlist_adapt.searching import Found
from shortlist_adapt.synthesis.cleaning import Cleaned, clean
from shortlist_adapt.synthesis.round_trip import passes
from shortlist_adapt.synthesis.source import Draft

TEXT = "Whales feed their young on milk. They sleep with one half of the brain at a time."
SENTENCE = (0, 32)


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    documents = [
        CorpusDocument(id="a", title="Whales", text=TEXT),
        CorpusDocument(id="twin", title="Whales", text=TEXT),
        CorpusDocument(id="b", title="Whales", text="Ships hunted them for oil."),
        CorpusDocument(id="c", title="Seals", text=f"Seals rest on ice. {TEXT[slice(*SENTENCE)]}"),
    ]
    write_lines(tmp_path / "corpus.jsonl", documents)
    with Corpus(tmp_path / "corpus.jsonl") as corpus:
        yield corpus


def draft(text: str, id: str = "a", source: str = "llm", **values: object) -> Draft:
    return Draft(**{"text": text, "source": source, "positives": {id: 1}, **values})  # type: ignore[arg-type]


def cleaned(corpus: Corpus, *drafts: Draft) -> Cleaned:
    return clean(drafts, corpus, max_copied=0.6)


def test_answers_are_completed_with_twins_and_freed_of_what_is_missing(corpus: Corpus) -> None:
    query = draft("why", positives={"a": 2, "gone": 1}, rejected=("b", "gone"), source="judged")
    (kept,) = cleaned(corpus, query).drafts.values()
    assert (kept.positives, kept.rejected) == ({"a": 2, "twin": 2}, ("b",))


def test_a_query_without_words_or_answer_is_dropped(corpus: Corpus) -> None:
    dropped = cleaned(corpus, draft("  "), draft("why", "gone")).dropped
    assert dropped == {"empty": 1, "answer not in the collection": 1}


def test_a_copy_of_the_shown_text_is_dropped_and_a_hidden_part_is_none(corpus: Corpus) -> None:
    copied = draft("they sleep with one half of the brain")
    assert cleaned(corpus, copied).dropped == {"copy of the text": 1}
    cut_out = draft(TEXT[slice(*SENTENCE)], source="cloze", excluded_text=SENTENCE)
    assert next(iter(cleaned(corpus, cut_out).drafts.values())).excluded_text == SENTENCE
    title = draft("Whales of the sea", source="title")
    assert len(cleaned(corpus, title).drafts) == 1


def test_people_may_copy(corpus: Corpus) -> None:
    assert len(cleaned(corpus, draft("they sleep with one half of the brain", source="judged")).drafts) == 1


def test_judgements_of_equal_queries_are_united(corpus: Corpus) -> None:
    first = draft("Why whales?", "a", source="judged", rejected=("b", "c"))
    second = draft("why whales", "b", source="clicks", split=Split.HELD_OUT)
    (kept,) = cleaned(corpus, first, second).drafts.values()
    assert kept.split is Split.HELD_OUT
    assert kept.positives == {"a": 1, "twin": 1, "b": 1}
    assert kept.rejected == ("c",)


def test_a_persons_query_goes_before_an_equal_made_one(corpus: Corpus) -> None:
    for drafts in (
        [draft("why"), draft("why", "b", source="judged")],
        [draft("why", "b", source="judged"), draft("why")],
    ):
        result = cleaned(corpus, *drafts)
        assert [kept.source for kept in result.drafts.values()] == ["judged"]
        assert result.dropped == {"duplicate": 1}


def test_a_made_query_that_several_documents_gave_is_dropped_for_good(corpus: Corpus) -> None:
    result = cleaned(corpus, draft("why", "a"), draft("why", "b"), draft("why", "c"))
    assert (result.drafts, result.dropped) == ({}, {"stands in several documents": 3})


def test_a_title_of_a_few_documents_has_several_answers(corpus: Corpus) -> None:
    titles = [draft("the whales", id, source="title") for id in ("a", "b")]
    (kept,) = cleaned(corpus, *titles).drafts.values()
    assert kept.positives == {"a": 1, "twin": 1, "b": 1}
    assert cleaned(corpus, *titles, draft("the whales", "c", source="title")).drafts == {}


def found(id: str, score: float) -> Found:
    return Found(id=id, score=score, cosine=None, dense_rank=0, lexical_rank=0)


def test_the_round_trip_asks_for_a_rank_and_a_margin() -> None:
    hits = [found("x", 0.9), found("y", 0.8), found("a", 0.65)]
    assert passes(hits, {"a": 1}, rank=3, margin=0.3)
    assert not passes(hits, {"a": 1}, rank=2, margin=0.3)
    assert not passes(hits, {"a": 1}, rank=3, margin=0.2)
    assert not passes([], {"a": 1}, rank=3, margin=1.0)
