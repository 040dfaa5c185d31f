"""The rerank stages: what a reranker reads, and how its scores order the ranking.

Each stage takes the best documents of the ranking that the one before left. ``fetch`` reads what its reranker needs,
``score`` asks the reranker, ``take`` orders by the scores. ``fetch`` and ``take`` block and run in a thread; ``score``
runs on the server's event loop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Deadline, Degradation, DegradationKind, Include, RerankFailurePolicy
from shortlist_server.errors import DeadlineExceeded, ShortlistError
from shortlist_server.inference.base import RerankCandidate, RerankerService
from shortlist_server.inference.passages import passage_content
from shortlist_server.pipeline.candidates import Candidates, RerankColumns, Rows, rows_of
from shortlist_server.pipeline.run import SearchRun, Shortlist
from shortlist_server.pipeline.stages import PlannedStage

PASSAGES_PER_DOCUMENT = 3
"""Passages per document that late interaction scores; a reranker that needs a forward pass scores only the best."""


def fetch(run: SearchRun, table: Candidates, stage: PlannedStage) -> Shortlist:
    """Reads the first candidates of the ranking so far as the stage's reranker needs them, and adds them to the run.

    A reranker that reads one passage of a document gets the one that the stage before scored best, else the nearest.
    """
    shortlist = Shortlist(stage=stage)
    run.shortlists.append(shortlist)
    if not len(table):
        return shortlist
    with run.stage("fetch", shortlist.seconds):
        shortlist.rows = table.order[: stage.depth]
        look_at(run, table, shortlist.rows)
        each = PASSAGES_PER_DOCUMENT if stage.reranker.info.uses_token_vectors else 1
        positions = table.passages.best_of(shortlist.rows, each)
        inputs = _inputs(run, table, positions, stage.reranker)
        kept = [place for place, one in enumerate(inputs) if one is not None]
        shortlist.passage_rows = table.passages.rows[positions[kept]]
        shortlist.passage_ids = table.passages.passage_ids[positions[kept]]
        shortlist.inputs = [one for one in inputs if one is not None]
    return shortlist


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


async def score(run: SearchRun, shortlist: Shortlist) -> None:
    """Asks the reranker for its scores; under the policy DEGRADE, the answer says what it could not give.

    Raises:
        ShortlistError: the reranker failed or ran out of time under the policy FAIL, or the caller's time is over.
    """
    stage, asked, strict = shortlist.stage, len(shortlist.inputs), run.plan.rerank_on_failure
    if not asked:
        return
    try:
        with run.stage("rerank", shortlist.seconds):
            scores = await stage.reranker.rerank(
                run.rerank_query(stage),
                shortlist.inputs,
                Deadline.after(max(0.0, run.deadline.left_seconds()) * stage.deadline_share),
            )
    except ShortlistError as error:
        if strict is RerankFailurePolicy.FAIL or run.deadline.passed():
            raise
        shortlist.failed = not isinstance(error, DeadlineExceeded)
        kind = DegradationKind.RERANK_FAILED if shortlist.failed else DegradationKind.RERANK_SKIPPED
        run.degradations.append(Degradation(kind=kind, message=error.message, stage=stage.number))
        return
    shortlist.scores = scores
    if len(scores.scores) < asked:
        message = f"only {len(scores.scores)} of {asked} passages were reranked in time"
        if strict is RerankFailurePolicy.FAIL:
            raise DeadlineExceeded(message, metadata={"stage": "rerank"})
        run.degradations.append(Degradation(kind=DegradationKind.RERANK_PARTIAL, message=message, stage=stage.number))


def take(table: Candidates, shortlist: Shortlist) -> None:
    """Fills the stage's columns, the scores after it and the ranking.

    A document gets the score of its best passage; a document without scored passages keeps the score that it has.
    Without any scores, the ranking stays.
    """
    scores, number = shortlist.scores, shortlist.stage.number
    if scores is None:
        return
    values = np.asarray(scores.scores, dtype=np.float64)
    passage_ids, rows = shortlist.passage_ids[: len(values)], shortlist.passage_rows[: len(values)]
    table.passages.take_rerank(number, passage_ids, values)
    # The passages of a document lie together, and documents in the order of the shortlist.
    places = np.cumsum(np.concatenate([[0], rows[1:] != rows[:-1]]))
    best = np.lexsort((-values, places))
    _, first = np.unique(places[best], return_index=True)
    best = best[first]
    columns = RerankColumns.of(
        number,
        len(table),
        rows[best],
        values[best],
        None if scores.probabilities is None else np.asarray(scores.probabilities)[best],
        np.asarray(scores.truncated_tokens)[best],
    )
    table.take_rerank(columns, shortlist.stage.depth, shortlist.stage.weight)
