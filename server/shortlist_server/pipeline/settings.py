"""Which settings a search runs with: the request's, else the collection's, else the server's.

Pure functions; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from shortlist_server.domain import FusionMethod, RerankFailurePolicy, RetrievalMode, SearchDefaults

DEFAULT_CANDIDATES = 100
DEFAULT_DENSE_WEIGHT = 0.6
DEFAULT_RRF_K = 60
DEFAULT_DEADLINE_SHARE = 0.8
DEFAULT_RECALL_TARGET = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """What a search runs with. ``None`` for ``ef``, rerank depth and weight: the collection's or the reranker's own."""

    mode: RetrievalMode
    dense_candidates: int
    lexical_candidates: int
    ef: int | None
    exact: bool
    fusion: FusionMethod
    dense_weight: float
    rrf_k: int
    rerank: bool | None
    reranker: str
    rerank_depth: int | None
    rerank_weight: float | None
    rerank_instruction: str
    rerank_on_failure: RerankFailurePolicy
    rerank_deadline_share: float


def merged(first: SearchDefaults, second: SearchDefaults) -> SearchDefaults:
    """``first`` with what it leaves unset taken from ``second``."""
    values = {}
    for field in fields(SearchDefaults):
        own = getattr(first, field.name)
        values[field.name] = getattr(second, field.name) if own is None else own
    return SearchDefaults(**values)


def resolve(
    request: SearchDefaults, collection: SearchDefaults, *, reranker: str, has_text: bool, has_vector: bool
) -> SearchSettings:
    """The settings of one search.

    Args:
        request: what the request set.
        collection: what the collection presets.
        reranker: the collection's reranker.
        has_text: whether the query has a text.
        has_vector: whether the query has a vector, or one can be made.
    """
    s = merged(request, collection)
    mode = s.mode or RetrievalMode.HYBRID
    if request.mode is None and mode is RetrievalMode.HYBRID:
        if not has_text:
            mode = RetrievalMode.DENSE
        elif not has_vector:
            mode = RetrievalMode.LEXICAL
    return SearchSettings(
        mode=mode,
        dense_candidates=s.dense_candidates or DEFAULT_CANDIDATES,
        lexical_candidates=s.lexical_candidates or DEFAULT_CANDIDATES,
        # Not the collection's preset, which is only where the collection's own begins.
        ef=request.ef,
        exact=bool(s.exact),
        fusion=s.fusion or FusionMethod.CONVEX,
        dense_weight=DEFAULT_DENSE_WEIGHT if s.dense_weight is None else s.dense_weight,
        rrf_k=s.rrf_k or DEFAULT_RRF_K,
        rerank=s.rerank,
        reranker=s.reranker or reranker,
        rerank_depth=s.rerank_depth,
        rerank_weight=s.rerank_weight,
        rerank_instruction=s.rerank_instruction or "",
        rerank_on_failure=s.rerank_on_failure or RerankFailurePolicy.DEGRADE,
        rerank_deadline_share=s.rerank_deadline_share or DEFAULT_DEADLINE_SHARE,
    )
