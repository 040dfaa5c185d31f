"""The full account of a search: the settings it ran with, and what became of every candidate.

Blocking; runs in one thread, after the answer is made, when a request asks for it.
"""

from __future__ import annotations

from shortlist_server.domain import CandidateOutcome, ExplainedCandidate, Explanation, Parts, SearchRequest, StageScore
from shortlist_server.pipeline.answer import stage_score
from shortlist_server.pipeline.run import Ranked, Retrieved, SearchRun


def explain(run: SearchRun, retrieved: Retrieved, ranked: Ranked) -> Explanation:
    """The account; it reads the id of every candidate from the store."""
    documents = run.collection.documents(ranked.keys, Parts(text=False, metadata=False))
    fused = {
        key: StageScore(score=score, rank=rank, normalized=score)
        for rank, (key, score) in enumerate(
            zip(retrieved.fused.keys, retrieved.fused.scores.tolist(), strict=True), start=1
        )
    }
    candidates = []
    passed = 0
    for rank, (key, score) in enumerate(zip(ranked.keys, ranked.scores, strict=True), start=1):
        outcome = _outcome(run.request, score, passed)
        passed += outcome is not CandidateOutcome.BELOW_MIN_SCORE
        candidates.append(
            ExplainedCandidate(
                id=documents[key].id if key in documents else "",
                rank=rank,
                score=score,
                dense=stage_score(key, retrieved.dense, retrieved.fused.dense),
                lexical=stage_score(key, retrieved.lexical, retrieved.fused.lexical),
                fused=fused[key],
                rerank=ranked.reranked.get(key),
                outcome=outcome,
            )
        )
    settings = run.settings
    info = None if run.reranker is None else run.reranker.info
    return Explanation(
        candidates=candidates,
        dense_candidates=run.dense_candidates,
        lexical_candidates=max(settings.lexical_candidates, run.wanted),
        fusion=settings.fusion,
        dense_weight=settings.dense_weight,
        rrf_k=settings.rrf_k,
        rerank_depth=0 if info is None else settings.rerank_depth or info.default_depth,
        rerank_weight=0.0
        if info is None
        else info.default_weight
        if settings.rerank_weight is None
        else settings.rerank_weight,
    )


def _outcome(request: SearchRequest, score: float, passed: int) -> CandidateOutcome:
    """What becomes of a candidate with so many good ones before it."""
    if request.min_score is not None and score < request.min_score:
        return CandidateOutcome.BELOW_MIN_SCORE
    if passed < request.offset:
        return CandidateOutcome.SKIPPED
    return CandidateOutcome.RETURNED if passed < request.offset + request.limit else CandidateOutcome.BEYOND_LIMIT
