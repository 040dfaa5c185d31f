"""Queries cut out of documents: which parts each source takes, and where they stand."""

from __future__ import annotations

import pytest

from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.extractive import ExtractiveQueries
from shortlist_adapt.synthesis.settings import ExtractiveSource
from shortlist_adapt.synthesis.source import Draft, QuerySource

REST = " It holds many more words than a query may hide from those who train on what is left."


def drafts(source: ExtractiveSource, title: str, text: str, per_document: int = 5, seed: int = 0) -> list[Draft]:
    extractive: QuerySource = ExtractiveQueries(source, per_document=per_document, seed=seed)
    return list(extractive.drafts([CorpusDocument(id="d", title=title, text=text)], Silent()))


def texts(source: ExtractiveSource, title: str, text: str) -> list[str]:
    return [draft.text for draft in drafts(source, title, text)]


def test_a_title_is_a_query_where_it_says_something() -> None:
    (draft,) = drafts("title", "Whales of  the north", REST)
    assert (draft.text, draft.positives, draft.excluded_text) == ("Whales of the north", {"d": 1}, None)
    assert texts("title", "Introduction", REST) == []
    assert texts("title", "json.dumps", REST) == []
    assert texts("title", "Whales of the north", "Too short.") == []


def test_headings_are_cut_with_their_marks() -> None:
    text = f"Before.\n\n## Feeding young whales ##\nMilk.{REST}\n\nHow they sleep\n==============\nNever.\n\n# Notes\n"
    found = drafts("heading", "Whales", text)
    assert [draft.text for draft in found] == ["Feeding young whales", "How they sleep"]
    parts = [text[slice(*draft.excluded_text)] for draft in found if draft.excluded_text]
    assert parts == ["## Feeding young whales ##", "How they sleep\n=============="]


def test_the_first_sentence_is_cut_where_it_stands() -> None:
    text = f"  Whales feed their young on milk.{REST}"
    (draft,) = drafts("first-sentence", "Whales of the north", text)
    assert draft.text == "Whales feed their young on milk."
    assert draft.excluded_text is not None
    assert text[slice(*draft.excluded_text)] == draft.text


def test_other_sentences_are_chosen_by_seed() -> None:
    sentences = [f"Sentence {word} says a few things about whales." for word in ("one", "two", "three", "four", "five")]
    text = "The first sentence of this document is no cloze. " + " ".join(sentences) + REST
    chosen = [[draft.text for draft in drafts("cloze", "T", text, 2, seed)] for seed in range(20)]
    assert all(len(pair) == 2 and "The first" not in pair[0] for pair in chosen)
    assert chosen[3] == [draft.text for draft in drafts("cloze", "T", text, 2, 3)]
    assert len({tuple(pair) for pair in chosen}) > 3
    for draft in drafts("cloze", "T", text, 2):
        assert draft.excluded_text is not None
        assert text[slice(*draft.excluded_text)] == draft.text


@pytest.mark.parametrize("part", [">>> whales.feed(young, milk) or whales.sleep(now)", "| a | b | c | d | e | 1 |"])
def test_code_and_tables_are_no_queries(part: str) -> None:
    assert texts("cloze", "T", f"A sentence that comes first in here.\n\n{part}\n\nEnd of it.{REST}")[:1] != [part]


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("json.dumps", f"Serialise an object to JSON.{REST}"),
        ("json.dumps", f"def dumps(obj, *, indent=None)\nSerialise an object to JSON.{REST}"),
        ("json.dumps", f"dumps(obj) -> str\n\nSerialise an object to JSON.{REST}"),
        ("Serialising", f"Serialise an object to JSON.\n\nArgs:\n    obj: what to write.{REST}"),
    ],
)
def test_the_summary_of_a_docstring_is_a_query_and_no_first_sentence(title: str, text: str) -> None:
    assert texts("docstring", title, text) == ["Serialise an object to JSON."]
    assert texts("first-sentence", title, text) == []
    assert texts("docstring", "Whales of the north", f"Whales feed their young on milk.{REST}") == []


def test_labels_of_structured_abstracts_are_no_part_of_a_query() -> None:
    text = f"BACKGROUND AND AIMS Whales feed their young on milk.{REST}"
    (draft,) = drafts("first-sentence", "Whales of the north", text)
    assert draft.text == "Whales feed their young on milk."
    assert draft.excluded_text == (0, text.index("milk.") + 5)
    assert texts("first-sentence", "On DNA", f"DNA repair fails in young whales.{REST}")[0].startswith("DNA repair")
