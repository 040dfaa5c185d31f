"""The explanation of a search: its settings, what became of every candidate, and what the models read.

Blocking; runs in one thread after the answer is made, when the request asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from shortlist_server.domain import (
    CandidateOutcome,
    DegradationKind,
    ExplainedCandidate,
    ExplainedTexts,
    Explanation,
    Include,
    RerankedPassage,
    RerankOutcome,
    SearchRequest,
)
from shortlist_server.pipeline.candidates import Candidates
from shortlist_server.pipeline.rerank import Shortlist
from shortlist_server.pipeline.run import SearchRun


def explain(run: SearchRun, table: Candidates, shortlist: Shortlist) -> Explanation:
    """The explanation; reads the id of every candidate from the store."""
    documents = run.generation.documents(table.keys.tolist(), Include(text=False, metadata=False))
    ids = {key: document.id for key, document in documents.items()}
    candidates = []
    passed = 0
    for rank, row in enumerate(table.order.tolist(), start=1):
        score = float(table.final[row])
        outcome = _outcome(run.request, score, passed)
        passed += outcome is not CandidateOutcome.BELOW_MIN_SCORE
        candidates.append(
            ExplainedCandidate(
                id=ids.get(int(table.keys[row]), ""),
                rank=rank,
                score=score,
                dense=None if table.dense is None else table.dense.at(row),
                lexical=None if table.lexical is None else table.lexical.at(row),
                fused=table.fused_at(row),
                rerank=table.rerank_at(row),
                outcome=outcome,
                rerank_outcome=_rerank_outcome(run, table, shortlist, row),
            )
        )
    plan, found = run.plan, table.found
    return Explanation(
        candidates=candidates,
        dense_candidates=plan.dense_candidates,
        lexical_candidates=plan.lexical_candidates,
        fusion=plan.fusion,
        dense_weight=plan.dense_weight,
        rrf_k=plan.rrf_k,
        rerank_depth=plan.rerank_depth,
        rerank_weight=plan.rerank_weight,
        dense_passages=0 if found is None else found.asked,
        dense_sources=() if found is None else found.sources,
        texts=_texts(run, table, shortlist, ids) if run.request.explain_texts else None,
    )


def _rerank_outcome(run: SearchRun, table: Candidates, shortlist: Shortlist, row: int) -> RerankOutcome | None:
    """What the second stage did with a document; None in a search without one."""
    if run.plan.reranker is None:
        return None
    if row >= shortlist.depth:
        return RerankOutcome.BEYOND_DEPTH
    if table.rerank_at(row) is not None:
        return RerankOutcome.SCORED
    if row not in table.passages.rows[shortlist.passages]:
        return RerankOutcome.NOTHING_TO_READ
    failed = any(degradation.kind is DegradationKind.RERANK_FAILED for degradation in run.degradations)
    return RerankOutcome.FAILED if failed else RerankOutcome.OUT_OF_TIME


def _texts(run: SearchRun, table: Candidates, shortlist: Shortlist, ids: Mapping[int, str]) -> ExplainedTexts:
    plan, query = run.plan, ""
    if plan.embedder is not None:
        query = plan.embedder.render_query(run.request.text, instruction=plan.instruction, deadline=run.deadline)
    read = [
        (position, candidate)
        for position, candidate in zip(shortlist.passages.tolist(), shortlist.inputs, strict=True)
        if not math.isnan(table.passages.rerank[position])
    ]
    if plan.reranker is None or not read:
        return ExplainedTexts(query=query, passages=())
    positions = [position for position, _ in read]
    passage_ids = table.passages.passage_ids[positions].tolist()
    keys = table.keys[table.passages.rows[positions]].tolist()
    stored = run.generation.passages(passage_ids)
    rendered = plan.reranker.render(run.rerank_query, [candidate for _, candidate in read])
    return ExplainedTexts(
        query=query,
        passages=[
            RerankedPassage(
                id=ids.get(key, ""),
                ordinal=stored[passage_id].ordinal if passage_id in stored else 0,
                text=one.text,
                token_vectors=one.token_vectors,
            )
            for key, passage_id, one in zip(keys, passage_ids, rendered, strict=True)
        ],
    )


def _outcome(request: SearchRequest, score: float, passed: int) -> CandidateOutcome:
    """What becomes of a candidate after ``passed`` others that reached ``min_score``."""
    if request.min_score is not None and score < request.min_score:
        return CandidateOutcome.BELOW_MIN_SCORE
    if passed < request.offset:
        return CandidateOutcome.SKIPPED
    return CandidateOutcome.RETURNED if passed < request.offset + request.limit else CandidateOutcome.BEYOND_LIMIT
