"""The answer: the documents of the final ranking, with their scores in every stage.

Blocking; each call runs in one thread.
"""

from __future__ import annotations

import math
import time

import numpy as np

from shortlist_server.domain import Hit, Include, ModelVersion, PassageHit, RerankStageReport, SearchReport
from shortlist_server.inference.base import EmbedderInfo, RerankerInfo
from shortlist_server.pipeline.candidates import Candidates, Rows
from shortlist_server.pipeline.portions import documents_within
from shortlist_server.pipeline.rerank import look_at
from shortlist_server.pipeline.run import SearchRun, Shortlist
from shortlist_server.storage.base import Selection


def answer(run: SearchRun, table: Candidates, last_attempt: bool) -> list[Hit] | None:
    """The hits asked for. None means that one of them was replaced since it was found: the search should start over."""
    request = run.request
    with run.stage("group"):
        rows = table.order if request.min_score is None else table.order[table.final[table.order] >= request.min_score]
        rows = rows[request.offset : request.offset + request.limit]
        include = Include(text=request.include.text or request.include.passages, metadata=request.include.metadata)
        keys = table.keys[rows].tolist()
        documents = documents_within(
            keys, lambda some: run.generation.documents(some, include), request.include, request.max_answer_bytes
        )
        if len(documents) < len(keys):
            if not last_attempt:
                return None
            rows = rows[[key in documents for key in keys]]
        passages = _passages(run, table, rows) if request.include.passages else {}
        return [
            Hit(
                rank=rank,
                score=float(table.final[row]),
                dense=None if table.dense is None else table.dense.at(row),
                lexical=None if table.lexical is None else table.lexical.at(row),
                fused=table.fused_at(row),
                reranks=table.reranks_at(row),
                document=documents[int(table.keys[row])],
                passages=passages.get(row, ()),
            )
            for rank, row in enumerate(rows.tolist(), request.offset + 1)
        ]


def _passages(run: SearchRun, table: Candidates, rows: Rows) -> dict[int, list[PassageHit]]:
    """The passages of each row that a stage scored: those that the last rerank stage scored first, and so on back to
    the others by cosine."""
    # Without a query vector, a document that the lexical index found may have no passages in the table yet.
    look_at(run, table, rows)
    columns = table.passages
    positions = columns.best_of(rows, len(columns.rows))
    passage_ids = columns.passage_ids[positions].tolist()
    stored = run.generation.passages(passage_ids, vectors=run.request.include.vectors)
    hits: dict[int, list[PassageHit]] = {row: [] for row in rows.tolist()}
    for position, row, passage_id in zip(
        positions.tolist(), columns.rows[positions].tolist(), passage_ids, strict=True
    ):
        if passage_id not in stored:
            continue
        cosine = float(columns.dense[position])
        reranks = {stage: float(scores[position]) for stage, scores in columns.reranks.items()}
        hits[row].append(
            PassageHit(
                passage=stored[passage_id],
                dense_score=None if math.isnan(cosine) else cosine,
                rerank_scores={stage: score for stage, score in reranks.items() if not math.isnan(score)},
            )
        )
    return hits


def report(run: SearchRun, table: Candidates, selection: Selection | None) -> SearchReport:
    """What the search did to find the answer."""
    plan = run.plan
    return SearchReport(
        total_seconds=time.perf_counter() - run.started,
        stage_seconds=run.seconds,
        mode=plan.mode,
        dense_strategy=None if table.found is None else table.found.strategy,
        dense_candidates=0 if table.dense is None else int(np.count_nonzero(table.dense.ranks)),
        lexical_candidates=0 if table.lexical is None else int(np.count_nonzero(table.lexical.ranks)),
        fused_candidates=len(table),
        rerank_stages=[_stage_report(shortlist) for shortlist in run.shortlists],
        filter_matches=None if selection is None else selection.matches,
        query_tokens=0 if run.embedding is None else run.embedding.tokens,
        query_truncated_tokens=0 if run.embedding is None else run.embedding.truncated_tokens,
        sequence=run.sequence,
        generation=run.generation.number,
        embedder=None if plan.embedder is None else _version(plan.embedder.info),
        degradations=tuple(run.degradations),
    )


def _stage_report(shortlist: Shortlist) -> RerankStageReport:
    stage = shortlist.stage
    return RerankStageReport(
        stage=stage.number,
        model=_version(stage.reranker.info),
        depth=stage.depth,
        weight=stage.weight,
        reranked=len(np.unique(shortlist.passage_rows[: shortlist.scored])),
        tokens=0 if shortlist.scores is None else shortlist.scores.tokens,
        fetch_seconds=shortlist.seconds.get("fetch", 0.0),
        rerank_seconds=shortlist.seconds.get("rerank", 0.0),
    )


def _version(info: EmbedderInfo | RerankerInfo) -> ModelVersion:
    return ModelVersion(name=info.name, revision=info.revision)
