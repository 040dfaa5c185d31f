"""The rows that an embedder trains on: a query, a passage that answers it, and passages that do not.

Texts of ``pairs.jsonl`` that are longer than a passage are cut as the server cuts them. Of several passages the row
gets the one nearest to its query by the model as it is: the one by which the server would find the document. Pure
functions; any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.records import Split, TrainingPair
from shortlist_adapt.training.served_texts import ServedTexts, Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A query and its passages, by their numbers in ``TrainingRows``."""

    query: int
    positive: int
    negatives: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingRows:
    """All rows, with the texts that they share.

    Attributes:
        queries: distinct queries. Equal texts are one query, whatever their ids.
        passages: distinct passages.
        documents: the number of each passage's document.
        document_count: how many documents there are.
        answers: shape (n,), int64, ascending: ``query * document_count + document`` for each document that is known to
            answer a query.
    """

    rows: tuple[Row, ...]
    queries: tuple[Tokens, ...]
    passages: tuple[Tokens, ...]
    documents: tuple[int, ...]
    document_count: int
    answers: NDArray[np.int64]

    def answered(self, queries: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether documents are known to answer queries; the arrays are broadcast against each other."""
        return np.isin(queries * self.document_count + documents, self.answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A text of several passages, of which a row takes one.

    Attributes:
        query: the query's text.
        pieces: contents of the passages.
    """

    query: str
    pieces: tuple[str, ...]


Chooser = Callable[[Sequence[Choice]], Sequence[int]]
"""Chooses a passage for each choice, by its place."""


def make_rows(
    pairs: Iterable[TrainingPair],
    texts: ServedTexts,
    *,
    titles: Mapping[str, str],
    positives: Mapping[str, Iterable[str]],
    choose: Chooser,
) -> TrainingRows:
    """The rows of the pairs that are for training.

    A negative that is known to answer its query is dropped, and so is a pair without text.

    Args:
        titles: titles of the corpus, by document id; with them a text's title goes in front of each of its passages.
        positives: documents that answer a query, by query id; those of the pairs themselves are known without it.
        choose: called once.

    Raises:
        InvalidInput: nothing is left to train on.
    """
    kept = [pair for pair in pairs if pair.split is Split.TRAIN and pair.query.strip()]
    answers = _answers(kept, positives)
    pieces = _Pieces(texts, titles)
    choices: list[Choice] = []

    def wanted(query: str, document: str, content: str) -> _Wanted | None:
        parts = pieces.of(document, content)
        if len(parts) > 1:
            choices.append(Choice(query=query, pieces=parts))
            return _Wanted(document=document, content="", choice=len(choices) - 1)
        return _Wanted(document=document, content=parts[0]) if parts else None

    drafts: list[tuple[str, _Wanted, list[_Wanted]]] = []
    for pair in kept:
        positive = wanted(pair.query, pair.positive_id, pair.positive)
        if positive is None:
            continue
        negatives = [
            found
            for document, content in zip(pair.negative_ids, pair.negatives, strict=True)
            if document not in answers[pair.query] and (found := wanted(pair.query, document, content))
        ]
        drafts.append((pair.query, positive, negatives))
    if not drafts:
        raise InvalidInput("pairs.jsonl has no pairs to train on: mine more queries, or use other sources of queries")
    places = choose(choices) if choices else []
    numbers = _Numbers()

    def number(one: _Wanted) -> int:
        content = one.content if one.choice is None else choices[one.choice].pieces[places[one.choice]]
        return numbers.passage(one.document, content)

    rows = [
        Row(
            query=numbers.query(query),
            positive=number(positive),
            negatives=tuple(dict.fromkeys(number(one) for one in negatives)),
        )
        for query, positive, negatives in drafts
    ]
    return numbers.table(rows, texts, answers)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A passage of a row: its content, or the choice that will give it."""

    document: str
    content: str
    choice: int | None = None


def _answers(pairs: Iterable[TrainingPair], positives: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Ids of the documents that answer a query, by its text."""
    found: dict[str, set[str]] = {}
    for pair in pairs:
        found.setdefault(pair.query, set()).update((pair.positive_id, *positives.get(pair.query_id, ())))
    return found


class _Pieces:
    """Cuts texts into passages, each text once."""

    def __init__(self, texts: ServedTexts, titles: Mapping[str, str]) -> None:
        self._texts = texts
        self._titles = titles
        self._made: dict[tuple[str, str], tuple[str, ...]] = {}

    def of(self, document: str, content: str) -> tuple[str, ...]:
        key = (document, content)
        if key not in self._made:
            title = self._titles.get(document, "")
            titled = bool(title) and content.startswith(f"{title}\n")
            title, text = (title, content[len(title) + 1 :]) if titled else ("", content)
            self._made[key] = tuple(self._texts.cut(title, text)) if content.strip() else ()
        return self._made[key]


class _Numbers:
    """Numbers queries, passages and documents in the order in which they come."""

    def __init__(self) -> None:
        self._queries: dict[str, int] = {}
        self._passages: dict[tuple[str, str], int] = {}
        self._documents: dict[str, int] = {}

    def query(self, text: str) -> int:
        return self._queries.setdefault(text, len(self._queries))

    def passage(self, document: str, content: str) -> int:
        self._documents.setdefault(document, len(self._documents))
        return self._passages.setdefault((document, content), len(self._passages))

    def table(self, rows: Sequence[Row], texts: ServedTexts, answers: Mapping[str, set[str]]) -> TrainingRows:
        count = len(self._documents)
        known = {
            query * count + self._documents[document]
            for text, query in self._queries.items()
            for document in answers[text]
            if document in self._documents
        }
        return TrainingRows(
            rows=tuple(rows),
            queries=tuple(texts.queries(list(self._queries))),
            passages=tuple(texts.passages([content for _, content in self._passages])),
            documents=tuple(self._documents[document] for document, _ in self._passages),
            document_count=count,
            answers=np.array(sorted(known), dtype=np.int64),
        )
