"""The candidates of one search, as one table that every stage fills.

A row is a document, a column an array over the rows. ``retrieve`` makes the table, fills the columns of the two indexes
and ``fused``, and sorts the rows; ``rerank`` fills its columns, ``final`` and ``order``. The answer and the explanation
read rows. A table belongs to one search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import DenseCandidates, LexicalCandidates, RerankScore, StageScore
from shortlist_server.ranking.fusion import Floats, Ranks, blend, blended_order, min_max

Keys = NDArray[np.int64]
Rows = NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class StageColumns:
    """What one index says about each candidate.

    Attributes:
        scores: shape (n,); raw scores, NaN where the stage did not score the document.
        ranks: shape (n,); ranks from 1 in the stage's own ranking, 0 where that lacks the document.
        normalized: shape (n,); the scores mapped to 0..1, NaN where ``scores`` is.
    """

    scores: Floats
    ranks: Ranks
    normalized: Floats

    @classmethod
    def of(cls, rows: Rows, scores: NDArray[np.floating], ranked: int, size: int) -> StageColumns:
        """Columns of ``size`` rows. ``rows`` have ``scores``; the first ``ranked`` of them are ranked in this order."""
        column = np.full(size, np.nan)
        column[rows] = scores
        ranks = np.zeros(size, dtype=np.int64)
        ranks[rows[:ranked]] = np.arange(1, ranked + 1)
        return cls(scores=column, ranks=ranks, normalized=min_max(column))

    def sort(self, order: Rows) -> None:
        """Sorts the rows."""
        self.scores, self.ranks, self.normalized = self.scores[order], self.ranks[order], self.normalized[order]

    def at(self, row: int) -> StageScore | None:
        """A document's score; None where the stage did not score it."""
        score = float(self.scores[row])
        if np.isnan(score):
            return None
        return StageScore(score=score, rank=int(self.ranks[row]), normalized=float(self.normalized[row]))


@dataclass(slots=True, kw_only=True)
class PassageColumns:
    """The passages that a stage looked at: grouped by document, best first.

    Attributes:
        rows: shape (m,), ascending: the row of the passage's document.
        passage_ids: shape (m,).
        dense: shape (m,), float64: cosines; NaN in a search without a vector.
        rerank: shape (m,), float64: rerank scores; NaN where the reranker did not score the passage.
    """

    rows: Rows
    passage_ids: NDArray[np.int64]
    dense: Floats
    rerank: Floats

    @classmethod
    def of(
        cls, rows: Rows, passage_ids: NDArray[np.int64], dense: NDArray[np.floating], rerank: Floats | None = None
    ) -> PassageColumns:
        """Groups passages by row; a row's passages keep their order."""
        order = np.argsort(rows, kind="stable")
        return cls(
            rows=rows[order],
            passage_ids=passage_ids[order],
            dense=dense[order].astype(np.float64),
            rerank=np.full(len(rows), np.nan) if rerank is None else rerank[order],
        )

    def more(self, rows: Rows, passage_ids: NDArray[np.int64], dense: NDArray[np.floating]) -> PassageColumns:
        """These passages and further ones, of rows that have none yet."""
        return PassageColumns.of(
            np.concatenate([self.rows, rows]),
            np.concatenate([self.passage_ids, passage_ids]),
            np.concatenate([self.dense, dense]),
            np.concatenate([self.rerank, np.full(len(rows), np.nan)]),
        )

    def of_row(self, row: int) -> slice:
        """The positions of a candidate's passages."""
        first, last = np.searchsorted(self.rows, [row, row + 1])
        return slice(int(first), int(last))

    def first_of(self, rows: int, each: int) -> NDArray[np.int64]:
        """The positions of the best passages of the first ``rows`` candidates, at most ``each`` per candidate."""
        starts, ends = np.searchsorted(self.rows, [np.arange(rows), np.arange(1, rows + 1)])
        counts = np.minimum(ends - starts, each)
        return np.repeat(starts - np.concatenate([[0], counts[:-1].cumsum()]), counts) + np.arange(counts.sum())


@dataclass(slots=True, kw_only=True)
class RerankColumns:
    """What the reranker says about the shortlist, the first ``depth`` candidates.

    Attributes:
        scores, normalized: shape (depth,); the best passage's score, raw and normalised; NaN where not scored.
        ranks: shape (depth,); from 1; 0 where not scored.
        probabilities: shape (depth,); NaN where not scored. None where the reranker gives none.
        truncated_tokens: shape (depth,), int64.
    """

    scores: Floats
    normalized: Floats
    ranks: Ranks
    probabilities: Floats | None
    truncated_tokens: NDArray[np.int64]


@dataclass(slots=True, kw_only=True)
class Candidates:
    """The table; rows in fused order once ``fuse`` has run.

    Attributes:
        keys: shape (n,), distinct: the documents.
        dense, lexical: the indexes' columns; None for an index that was not asked.
        fused: shape (n,), 0 to 1, descending.
        passages: the passages that a stage looked at.
        found: the answer of the dense index; None where it was not asked.
        rerank: the reranker's columns; None where nothing was reranked.
        final: shape (n,): the scores of the answer.
        order: shape (n,): rows by final rank.
    """

    keys: Keys
    dense: StageColumns | None
    lexical: StageColumns | None
    passages: PassageColumns
    found: DenseCandidates | None
    fused: Floats
    rerank: RerankColumns | None = None
    final: Floats
    order: Rows

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(
        cls, found: DenseCandidates | None, known: DenseCandidates | None, lexical: LexicalCandidates | None
    ) -> Candidates:
        """The table of what the indexes found.

        Args:
            found: the dense ranking.
            known: passages and cosines of documents that only the lexical index found.
            lexical: the lexical ranking.
        """
        parts = [part for part in (found, known) if part is not None]
        first = [first_of_each(part.keys) for part in parts]
        scored = [part.keys[rows] for part, rows in zip(parts, first, strict=True)]
        keys = distinct(np.concatenate([*scored, np.empty(0, np.int64) if lexical is None else lexical.keys]))
        size, dense, words = len(keys), None, None
        if found is not None:
            cosines = np.concatenate([part.scores[rows] for part, rows in zip(parts, first, strict=True)])
            dense = StageColumns.of(np.arange(len(cosines)), cosines, len(scored[0]), size)
        if lexical is not None:
            words = StageColumns.of(rows_of(keys, lexical.keys), lexical.scores, len(lexical.keys), size)
        passages = PassageColumns.of(
            rows_of(keys, np.concatenate([np.empty(0, np.int64), *(part.keys for part in parts)])),
            np.concatenate([np.empty(0, np.int64), *(part.passage_ids for part in parts)]),
            np.concatenate([np.empty(0), *(part.scores for part in parts)]),
        )
        empty = np.zeros(size)
        return cls(
            keys=keys,
            dense=dense,
            lexical=words,
            passages=passages,
            found=found,
            fused=empty,
            final=empty,
            order=np.arange(size),
        )

    def stages(self) -> list[StageColumns]:
        """The columns of the indexes that were asked, the dense index first."""
        return [stage for stage in (self.dense, self.lexical) if stage is not None]

    def sort(self, fused: Floats) -> None:
        """Takes the fused scores and sorts the rows by them. Ties stay in the order of dense, then lexical rank."""
        order = np.argsort(-fused, kind="stable")
        self.keys, self.fused = self.keys[order], fused[order]
        for stage in self.stages():
            stage.sort(order)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        passages = self.passages
        self.passages = PassageColumns.of(place[passages.rows], passages.passage_ids, passages.dense)
        self.final, self.order = self.fused, np.arange(len(order))

    def take_rerank(self, columns: RerankColumns, weight: float) -> None:
        """Takes the reranker's columns. Orders the shortlist by blended score; the rest follows in fused order."""
        depth = len(columns.scores)
        final, columns.normalized = blend(self.fused[:depth], columns.scores, weight)
        self.rerank = columns
        self.final = np.concatenate([final, self.fused[depth:]])
        self.order = np.concatenate([blended_order(final, columns.normalized), np.arange(depth, len(self))])

    def fused_at(self, row: int) -> StageScore:
        """A document's fused score."""
        score = float(self.fused[row])
        return StageScore(score=score, rank=row + 1, normalized=score)

    def rerank_at(self, row: int) -> RerankScore | None:
        """A document's rerank score; None where the reranker did not score it."""
        columns = self.rerank
        if columns is None or row >= len(columns.scores) or not columns.ranks[row]:
            return None
        return RerankScore(
            score=float(columns.scores[row]),
            rank=int(columns.ranks[row]),
            normalized=float(columns.normalized[row]),
            probability=None if columns.probabilities is None else float(columns.probabilities[row]),
            truncated_tokens=int(columns.truncated_tokens[row]),
        )


def first_of_each(keys: Keys) -> NDArray[np.int64]:
    """The position at which each distinct key first occurs, ascending."""
    _, first = np.unique(keys, return_index=True)
    first.sort()
    return first


def distinct(keys: Keys) -> Keys:
    """The distinct keys, in the order of their first occurrence."""
    return keys[first_of_each(keys)]


def rows_of(keys: Keys, wanted: Keys) -> Rows:
    """The row of each wanted key. ``keys`` are distinct and contain every wanted key."""
    order = np.argsort(keys)
    return order[np.searchsorted(keys, wanted, sorter=order)] if len(keys) else np.empty(0, np.int64)
