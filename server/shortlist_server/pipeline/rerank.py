"""The second stage: what the reranker reads, and how its scores order the shortlist.

Blocking; each call runs in one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Degradation, DegradationKind, Include, RerankFailurePolicy
from shortlist_server.errors import DeadlineExceeded
from shortlist_server.inference.base import RerankCandidate, RerankerService, RerankScores
from shortlist_server.inference.passages import passage_content
from shortlist_server.pipeline.candidates import Candidates, RerankColumns, Rows, rows_of
from shortlist_server.pipeline.run import SearchRun

PASSAGES_PER_DOCUMENT = 3
"""Passages per document that late interaction scores; a reranker that needs a forward pass scores only the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortlist:
    """What the reranker gets: the first ``depth`` candidates.

    Attributes:
        passages: shape (m,): positions in the table's passages, grouped by document, best first.
        inputs: what the reranker reads of each of these passages.
    """

    depth: int
    passages: NDArray[np.int64]
    inputs: Sequence[RerankCandidate]


NOTHING = Shortlist(depth=0, passages=np.empty(0, np.int64), inputs=())


def fetch(run: SearchRun, table: Candidates) -> Shortlist:
    """Reads the first candidates as the reranker needs them; nothing in a search without a reranker."""
    reranker = run.plan.reranker
    if reranker is None or not len(table):
        return NOTHING
    with run.stage("fetch"):
        depth = min(run.plan.rerank_depth, len(table))
        look_at(run, table, np.arange(depth))
        positions = table.passages.first_of(depth, PASSAGES_PER_DOCUMENT if reranker.info.uses_token_vectors else 1)
        inputs = _inputs(run, table, positions, reranker)
        kept = [place for place, one in enumerate(inputs) if one is not None]
        return Shortlist(depth=depth, passages=positions[kept], inputs=[one for one in inputs if one is not None])


def look_at(run: SearchRun, table: Candidates, rows: Rows) -> None:
    """Adds the passages of those candidates that have none in the table yet."""
    unknown = np.setdiff1d(rows, table.passages.rows)
    if not len(unknown):
        return
    keys = table.keys[unknown]
    if run.vector is not None:
        scored = run.generation.dense_scores(run.vector, keys.tolist())
        found, passage_ids, cosines = scored.keys, scored.passage_ids, scored.scores.astype(np.float64)
    else:
        documents = run.generation.documents(keys.tolist(), Include(text=False, passages=True))
        pairs = [(key, passage.passage_id) for key, document in documents.items() for passage in document.passages]
        found, passage_ids = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        cosines = np.full(len(pairs), np.nan)
    table.passages = table.passages.more(rows_of(table.keys, found), passage_ids, cosines)


def _inputs(
    run: SearchRun, table: Candidates, positions: NDArray[np.int64], reranker: RerankerService
) -> list[RerankCandidate | None]:
    """What the reranker reads of each passage; None for one that is gone or has nothing to read."""
    passage_ids = table.passages.passage_ids[positions].tolist()
    tokens = reranker.info.uses_token_vectors
    stored = run.generation.passages(passage_ids, token_vectors=tokens)
    if tokens:
        return [
            RerankCandidate(token_vectors=passage.token_vectors)
            if (passage := stored.get(passage_id)) is not None and passage.token_vectors is not None
            else None
            for passage_id in passage_ids
        ]
    keys = table.keys[table.passages.rows[positions]].tolist()
    documents = run.generation.documents(keys, Include(metadata=False))
    return [
        RerankCandidate(text=passage_content(document.title, document.text[passage.start : passage.end]))
        if (passage := stored.get(passage_id)) is not None and (document := documents.get(key)) is not None
        else None
        for key, passage_id in zip(keys, passage_ids, strict=True)
    ]


def note_partial(run: SearchRun, scored: int, asked: int) -> None:
    """Records that time ran out before all passages were scored; raises under the policy FAIL."""
    message = f"only {scored} of {asked} passages were reranked in time"
    if run.plan.rerank_on_failure is RerankFailurePolicy.FAIL:
        raise DeadlineExceeded(message, metadata={"stage": "rerank"})
    run.degradations.append(Degradation(kind=DegradationKind.RERANK_PARTIAL, message=message))


def rerank(run: SearchRun, table: Candidates, shortlist: Shortlist, scores: RerankScores | None) -> None:
    """Fills the reranker's columns and the final ranking.

    A document gets the score of its best passage; a document without scored passages keeps its fused score. Without
    any scores, the fused ranking stays.
    """
    if scores is None:
        return
    # Passages that time did not allow have no scores.
    positions = shortlist.passages[: len(scores.scores)]
    values = np.asarray(scores.scores, dtype=np.float64)
    table.passages.rerank[positions] = values
    rows = table.passages.rows[positions]
    best = np.lexsort((-values, rows))
    scored, first = np.unique(rows[best], return_index=True)
    best = best[first]
    table.take_rerank(
        RerankColumns(
            scores=_column(shortlist.depth, scored, values[best]),
            normalized=np.empty(0),
            ranks=_ranks(shortlist.depth, scored, values[best]),
            probabilities=None
            if scores.probabilities is None
            else _column(shortlist.depth, scored, np.asarray(scores.probabilities)[best]),
            truncated_tokens=_column(shortlist.depth, scored, np.asarray(scores.truncated_tokens)[best], 0).astype(
                np.int64
            ),
        ),
        run.plan.rerank_weight,
    )


def _column(size: int, rows: Rows, values: NDArray[np.generic], missing: float = np.nan) -> NDArray[np.float64]:
    column = np.full(size, missing)
    column[rows] = values
    return column


def _ranks(size: int, rows: Rows, values: NDArray[np.float64]) -> NDArray[np.int64]:
    ranks = np.zeros(size, dtype=np.int64)
    ranks[rows[np.argsort(-values, kind="stable")]] = np.arange(1, len(rows) + 1)
    return ranks
