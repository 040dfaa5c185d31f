"""The candidates of one search, as one table that every stage fills.

A row is a document, a column an array over the rows. ``retrieve`` makes the table, fills the columns of the two indexes
and ``fused``, and sorts the rows. Each rerank stage adds columns and changes ``final`` and ``order``. The answer and
the explanation read rows. A table belongs to one search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        reranks: by the number of each rerank stage so far, in their order: shape (m,), float64; NaN where the stage did
            not score the passage.
    """

    rows: Rows
    passage_ids: NDArray[np.int64]
    dense: Floats
    reranks: dict[int, Floats]

    @classmethod
    def of(
        cls,
        rows: Rows,
        passage_ids: NDArray[np.int64],
        dense: NDArray[np.floating],
        reranks: Mapping[int, Floats] | None = None,
    ) -> PassageColumns:
        """Groups passages by row; a row's passages keep their order."""
        order = np.argsort(rows, kind="stable")
        return cls(
            rows=rows[order],
            passage_ids=passage_ids[order],
            dense=dense[order].astype(np.float64),
            reranks={stage: scores[order] for stage, scores in (reranks or {}).items()},
        )

    def more(self, rows: Rows, passage_ids: NDArray[np.int64], dense: NDArray[np.floating]) -> PassageColumns:
        """These passages and further ones, of rows that have none yet."""
        return PassageColumns.of(
            np.concatenate([self.rows, rows]),
            np.concatenate([self.passage_ids, passage_ids]),
            np.concatenate([self.dense, dense]),
            {stage: np.concatenate([scores, np.full(len(rows), np.nan)]) for stage, scores in self.reranks.items()},
        )

    def take_rerank(self, stage: int, passage_ids: NDArray[np.int64], scores: Floats) -> None:
        """Takes the scores that a rerank stage gave to some of the passages."""
        column = np.full(len(self.rows), np.nan)
        column[rows_of(self.passage_ids, passage_ids)] = scores
        self.reranks[stage] = column

    def best_first(self) -> NDArray[np.int64]:
        """The positions, grouped by row. Best first in each: by the last stage's score, the one before, the cosine.

        A passage that a stage did not score is behind those that it did. Without any score the order stays.
        """
        scores = [np.nan_to_num(column, nan=-np.inf) for column in self.reranks.values()]
        return np.lexsort([-np.nan_to_num(self.dense), *(-column for column in scores), self.rows])

    def best_of(self, rows: Rows, each: int) -> NDArray[np.int64]:
        """The positions of the best passages of some candidates, in their order; at most ``each`` per candidate."""
        starts, ends = np.searchsorted(self.rows, [rows, rows + 1])
        counts = np.minimum(ends - starts, each)
        before = np.cumsum(counts) - counts
        places = np.repeat(starts - before, counts) + np.arange(counts.sum())
        return np.asarray(self.best_first()[places], dtype=np.int64)


@dataclass(slots=True, kw_only=True)
class RerankColumns:
    """What one rerank stage says about each candidate.

    Attributes:
        stage: the number of the stage, from 1.
        scores, normalized: shape (n,); the best passage's score, raw and min-max normalised; NaN where not scored.
        ranks: shape (n,); by score, from 1; 0 where not scored.
        probabilities: shape (n,); NaN where not scored. None where the reranker gives none.
        truncated_tokens: shape (n,), int64.
        blended, blended_ranks: shape (n,); every candidate's score and rank in the whole ranking after the stage.
    """

    stage: int
    scores: Floats
    normalized: Floats
    ranks: Ranks
    probabilities: Floats | None
    truncated_tokens: NDArray[np.int64]
    blended: Floats
    blended_ranks: Ranks

    @classmethod
    def of(
        cls,
        stage: int,
        size: int,
        rows: Rows,
        scores: Floats,
        probabilities: NDArray[np.floating] | None = None,
        truncated_tokens: NDArray[np.integer] | None = None,
    ) -> RerankColumns:
        """Columns of ``size`` rows, from those scored; ``Candidates.take_rerank`` completes them."""
        column = np.full(size, np.nan)
        column[rows] = scores
        ranks = np.zeros(size, dtype=np.int64)
        ranks[rows[np.argsort(-scores, kind="stable")]] = np.arange(1, len(rows) + 1)
        truncated = np.zeros(size, dtype=np.int64)
        if truncated_tokens is not None:
            truncated[rows] = truncated_tokens
        shares = None
        if probabilities is not None:
            shares = np.full(size, np.nan)
            shares[rows] = probabilities
        return cls(
            stage=stage,
            scores=column,
            normalized=np.empty(0),
            ranks=ranks,
            probabilities=shares,
            truncated_tokens=truncated,
            blended=np.empty(0),
            blended_ranks=np.empty(0, np.int64),
        )

    def at(self, row: int) -> RerankScore | None:
        """A document's score; None where the stage did not score it."""
        if not self.ranks[row]:
            return None
        return RerankScore(
            stage=self.stage,
            score=float(self.scores[row]),
            rank=int(self.ranks[row]),
            normalized=float(self.normalized[row]),
            probability=None if self.probabilities is None else float(self.probabilities[row]),
            truncated_tokens=int(self.truncated_tokens[row]),
            blended=float(self.blended[row]),
            blended_rank=int(self.blended_ranks[row]),
        )


@dataclass(slots=True, kw_only=True)
class Candidates:
    """The table; rows in fused order once ``fuse`` has run.

    Attributes:
        keys: shape (n,), distinct: the documents.
        dense, lexical: the indexes' columns; None for an index that was not asked.
        fused: shape (n,), 0 to 1, descending.
        passages: the passages that a stage looked at.
        found: the answer of the dense index; None where it was not asked.
        reranks: the columns of each rerank stage so far that scored something.
        final: shape (n,): the scores after the last stage so far.
        order: shape (n,): rows by rank after the last stage so far.
    """

    keys: Keys
    dense: StageColumns | None
    lexical: StageColumns | None
    passages: PassageColumns
    found: DenseCandidates | None
    fused: Floats
    reranks: list[RerankColumns] = field(default_factory=list)
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

    def take_rerank(self, columns: RerankColumns, depth: int, weight: float) -> None:
        """Takes the columns of a rerank stage. Orders the first ``depth`` documents of the ranking so far by blended
        score; the others stay where they are.

        Args:
            columns: with a score for at least one of these documents, and for no other.
            depth: at least 1.
            weight: weight of the rerank score, 0 to 1.
        """
        shortlist = self.order[:depth]
        final, normalized = blend(self.final[shortlist], columns.scores[shortlist], weight)
        self.final = self.final.copy()
        self.final[shortlist] = final
        self.order = np.concatenate([shortlist[blended_order(final, normalized)], self.order[depth:]])
        columns.normalized = np.full(len(self), np.nan)
        columns.normalized[shortlist] = normalized
        columns.blended = self.final
        columns.blended_ranks = np.empty(len(self), dtype=np.int64)
        columns.blended_ranks[self.order] = np.arange(1, len(self) + 1)
        self.reranks.append(columns)

    def fused_at(self, row: int) -> StageScore:
        """A document's fused score."""
        score = float(self.fused[row])
        return StageScore(score=score, rank=row + 1, normalized=score)

    def reranks_at(self, row: int) -> list[RerankScore]:
        """A document's scores in the rerank stages that scored it, in their order."""
        return [score for columns in self.reranks if (score := columns.at(row)) is not None]


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
