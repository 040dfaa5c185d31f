"""Rows: passages as the server cuts them, answers never negatives, equal queries one query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.records import Split, TrainingPair
from shortlist_adapt.training.rows import Choice, make_rows
from shortlist_adapt.training.served_texts import ServedTexts, read_base
from shortlist_server.domain import OverflowPolicy
from shortlist_server.inference import passages
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.tokenization import open_tokenizer

LONG = " ".join(f"Sentence number {number} is about sourdough bread and wild yeast." for number in range(40))


@pytest.fixture(scope="module")
def texts() -> ServedTexts:
    return ServedTexts(read_base(bundled_minilm()))


def pair(
    query: str, positive: tuple[str, str], *negatives: tuple[str, str], split: Split = Split.TRAIN
) -> TrainingPair:
    return TrainingPair(
        query_id=f"id of {query}",
        query=query,
        source="judged",
        split=split,
        positive_id=positive[0],
        positive=positive[1],
        negative_ids=tuple(one for one, _ in negatives),
        negatives=tuple(content for _, content in negatives),
    )


def first(choices: Sequence[Choice]) -> list[int]:
    return [0] * len(choices)


def words(texts: ServedTexts, ids: list[int]) -> str:
    return str(open_tokenizer(bundled_minilm() / "tokenizer.json").decode(ids))


def test_a_long_text_is_cut_as_the_server_cuts_it_and_the_chooser_decides(texts: ServedTexts) -> None:
    asked: list[Choice] = []

    def last(choices: Sequence[Choice]) -> list[int]:
        asked.extend(choices)
        return [len(choice.pieces) - 1 for choice in choices]

    pairs = [pair("which bread", ("a", f"Bread\n{LONG}"), ("b", "short text"))]
    table = make_rows(pairs, texts, titles={"a": "Bread"}, positives={}, choose=last)
    cut = passages.cut("Bread", LONG, texts.chunking, OverflowPolicy.CHUNK, texts).passages
    assert len(cut) > 2
    assert asked == [Choice(query="which bread", pieces=tuple(piece.content for piece in cut))]
    (row,) = table.rows
    (expected,) = texts.passages([cut[-1].content])
    assert table.passages[row.positive] == expected
    assert len(expected.ids) <= texts.chunking.max_tokens
    assert words(texts, table.passages[row.negatives[0]].ids) == "short text"


def test_without_a_title_in_the_corpus_the_first_line_is_text(texts: ServedTexts) -> None:
    asked: list[Choice] = []

    def keep(choices: Sequence[Choice]) -> list[int]:
        asked.extend(choices)
        return first(choices)

    make_rows([pair("q", ("a", f"First line\n{LONG}"))], texts, titles={"a": ""}, positives={}, choose=keep)
    assert [piece.startswith("First line") for piece in asked[0].pieces[:2]] == [True, False]


def test_known_answers_are_no_negatives(texts: ServedTexts) -> None:
    pairs = [
        pair("q", ("a", "one"), ("b", "two"), ("c", "three"), ("d", " ")),
        pair("q", ("c", "three"), ("a", "one"), ("b", "two")),
    ]
    table = make_rows(pairs, texts, titles={}, positives={"id of q": ["e"]}, choose=first)
    assert [len(row.negatives) for row in table.rows] == [1, 1]
    assert {table.documents[row.negatives[0]] for row in table.rows} == {table.documents[table.rows[0].negatives[0]]}
    assert len(table.queries) == 1
    documents = np.arange(table.document_count)
    assert table.answered(np.array([0]), documents).sum() == 2


def test_equal_queries_share_their_answers(texts: ServedTexts) -> None:
    twin = pair("q", ("a", "one"))
    other = pair("q", ("b", "two"), ("a", "one"))
    table = make_rows([twin, other], texts, titles={}, positives={}, choose=first)
    assert [row.query for row in table.rows] == [0, 0]
    assert table.rows[1].negatives == ()


def test_only_pairs_for_training_count(texts: ServedTexts) -> None:
    pairs = [pair("q", ("a", "one")), pair("r", ("b", "two"), split=Split.DEVELOPMENT), pair("s", ("c", "  "))]
    table = make_rows(pairs, texts, titles={}, positives={}, choose=first)
    assert len(table.rows) == 1
    assert words(texts, table.queries[0].ids) == "q"
    with pytest.raises(InvalidInput, match="no pairs"):
        make_rows(pairs[1:], texts, titles={}, positives={}, choose=first)


def test_a_document_has_one_number_whatever_its_passage(texts: ServedTexts) -> None:
    table = make_rows(
        [pair("q", ("a", "one passage")), pair("r", ("b", "text"), ("a", "another passage"))],
        texts,
        titles={},
        positives={},
        choose=first,
    )
    assert table.document_count == 2
    assert table.documents[table.rows[0].positive] == table.documents[table.rows[1].negatives[0]]
    assert table.rows[0].positive != table.rows[1].negatives[0]
