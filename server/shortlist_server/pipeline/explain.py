"""The full account of a search: the settings it ran with, what became of every candidate, and what the models read.

Blocking; runs in one thread, after the answer is made, when a request asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from shortlist_server.domain import (
    CandidateOutcome,
    DegradationKind,
    ExplainedCandidate,
    ExplainedTexts,
    Explanation,
    Parts,
    RerankedPassage,
    RerankOutcome,
    SearchRequest,
    StageScore,
)
from shortlist_server.pipeline.answer import stage_score
from shortlist_server.pipeline.run import Ranked, Retrieved, SearchRun, Shortlist


def explain(run: SearchRun, retrieved: Retrieved, shortlist: Shortlist, ranked: Ranked) -> Explanation:
    """The account; it reads the id of every candidate from the store."""
    documents = run.collection.documents(ranked.keys, Parts(text=False, metadata=False))
    ids = {key: document.id for key, document in documents.items()}
    rerank_outcomes = _rerank_outcomes(run, shortlist, ranked)
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
                id=ids.get(key, ""),
                rank=rank,
                score=score,
                dense=stage_score(key, retrieved.dense, retrieved.fused.dense),
                lexical=stage_score(key, retrieved.lexical, retrieved.fused.lexical),
                fused=fused[key],
                rerank=ranked.reranked.get(key),
                outcome=outcome,
                rerank_outcome=rerank_outcomes.get(key),
            )
        )
    settings, dense = run.settings, retrieved.candidates
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
        dense_passages=0 if dense is None else dense.asked,
        dense_sources=() if dense is None else dense.sources,
        texts=_texts(run, shortlist, ranked, ids) if run.request.explain_texts else None,
    )


def _rerank_outcomes(run: SearchRun, shortlist: Shortlist, ranked: Ranked) -> dict[int, RerankOutcome]:
    """What the second stage did with each document; empty where there was none."""
    if run.reranker is None:
        return {}
    outcomes = dict.fromkeys(ranked.keys, RerankOutcome.BEYOND_DEPTH)
    outcomes.update(dict.fromkeys(shortlist.keys, RerankOutcome.NOTHING_TO_READ))
    failed = any(degradation.kind is DegradationKind.RERANK_FAILED for degradation in run.degradations)
    unscored = RerankOutcome.FAILED if failed else RerankOutcome.OUT_OF_TIME
    outcomes.update((key, unscored) for key, _ in shortlist.pairs)
    outcomes.update(dict.fromkeys(ranked.reranked, RerankOutcome.SCORED))
    return outcomes


def _texts(run: SearchRun, shortlist: Shortlist, ranked: Ranked, ids: Mapping[int, str]) -> ExplainedTexts:
    query = ""
    if run.embedder is not None:
        query = run.embedder.render_query(run.request.text, instruction=run.instruction, deadline=run.deadline)
    read = [
        (pair, candidate)
        for pair, candidate in zip(shortlist.pairs, shortlist.candidates, strict=True)
        if pair[1] in ranked.passages
    ]
    if run.reranker is None or not read:
        return ExplainedTexts(query=query, passages=())
    stored = run.collection.passages([label for (_, label), _ in read])
    rendered = run.reranker.render(run.rerank_query, [candidate for _, candidate in read])
    return ExplainedTexts(
        query=query,
        passages=[
            RerankedPassage(
                id=ids.get(key, ""),
                ordinal=stored[label].ordinal if label in stored else 0,
                text=one.text,
                token_vectors=one.token_vectors,
            )
            for ((key, label), _), one in zip(read, rendered, strict=True)
        ],
    )


def _outcome(request: SearchRequest, score: float, passed: int) -> CandidateOutcome:
    """What becomes of a candidate with so many good ones before it."""
    if request.min_score is not None and score < request.min_score:
        return CandidateOutcome.BELOW_MIN_SCORE
    if passed < request.offset:
        return CandidateOutcome.SKIPPED
    return CandidateOutcome.RETURNED if passed < request.offset + request.limit else CandidateOutcome.BEYOND_LIMIT
