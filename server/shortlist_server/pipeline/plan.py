"""The settings a search runs with: each is the request's, else the collection's, else the server's.

Only ``plan`` fills in defaults, with ``stages`` for those of reranking. Pure functions; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

from shortlist_server.domain import (
    NO_MODEL,
    CollectionConfig,
    Degradation,
    DegradationKind,
    FusionMethod,
    RerankFailurePolicy,
    RetrievalMode,
    SearchDefaults,
    SearchRequest,
)
from shortlist_server.errors import (
    InvalidArgument,
    InvalidVector,
    ModelMismatch,
    ModelNotFound,
    ShortlistError,
    UnsupportedByCollection,
)
from shortlist_server.inference.base import EmbedderService, ModelCatalog
from shortlist_server.pipeline.stages import FIELDS, PlannedStage, effective_stages, merged_stages, plan_stages
from shortlist_server.storage.base import GenerationReader

T = TypeVar("T")

STAGE_FIELDS = frozenset({"rerank_stages", *FIELDS.values()})
"""The settings that say which stages there are; ``stages`` merges them."""

DEFAULT_RECALL_TARGET = 0.98

DEFAULTS = SearchDefaults(
    mode=RetrievalMode.HYBRID,
    dense_candidates=100,
    lexical_candidates=100,
    exact=False,
    fusion=FusionMethod.WEIGHTED_SUM,
    dense_weight=0.6,
    rrf_k=60,
    rerank=True,
    rerank_on_failure=RerankFailurePolicy.DEGRADE,
    recall_target=DEFAULT_RECALL_TARGET,
)
"""The server's defaults. ``ef`` comes from the collection, the rest of a rerank stage from ``stages``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The settings and models of one search.

    Attributes:
        dense_candidates, lexical_candidates: documents to ask each index for, at least as many as the answer needs.
        ef: nodes each graph is asked for; None: the collection's own, which the server may raise.
        embedder: None where the search needs no embedding.
        instruction: the embedder's; "" for the model's default.
        stages: the rerank stages, in order; empty where the search reranks nothing.
        degradations: what the answer will lack, as far as that is known before the search begins.
    """

    mode: RetrievalMode
    dense_candidates: int
    lexical_candidates: int
    ef: int | None
    exact: bool
    fusion: FusionMethod
    dense_weight: float
    rrf_k: int
    embedder: EmbedderService | None
    instruction: str
    stages: tuple[PlannedStage, ...]
    rerank_on_failure: RerankFailurePolicy
    degradations: tuple[Degradation, ...] = ()


def merged(*levels: SearchDefaults) -> SearchDefaults:
    """Each setting from the first level that sets it; the rerank stages as ``merged_stages`` says."""
    stages = merged_stages(levels)
    values = {name: getattr(stages, name) for name in STAGE_FIELDS}
    for field in fields(SearchDefaults):
        if field.name in STAGE_FIELDS:
            continue
        each = (getattr(level, field.name) for level in levels)
        values[field.name] = next((value for value in each if value is not None), None)
    return SearchDefaults(**values)


def effective_defaults(config: CollectionConfig, models: ModelCatalog) -> SearchDefaults:
    """What a search of a collection runs with where its request sets nothing.

    ``ef`` is None unless it is preset: the server chooses it then, and may raise it. The rerank stages are those of
    ``effective_stages``.
    """
    chosen = merged(config.search_defaults, DEFAULTS)
    stages = effective_stages(chosen, config, models)
    return replace(
        chosen,
        rerank=chosen.rerank and stages.reranker != NO_MODEL,
        **{name: getattr(stages, name) for name in STAGE_FIELDS},
    )


def plan(request: SearchRequest, generation: GenerationReader, models: ModelCatalog) -> Plan:
    """Resolves every setting of a search of a generation.

    Raises:
        InvalidArgument, InvalidVector, UnsupportedByCollection: the request does not fit the collection.
        ModelNotFound: the server has no such reranker, or lacks the generation's embedder in a search that needs it.
        ModelMismatch: the embedder of that name is not the one that made the generation's vectors, and the search
            needs that one.
    """
    config = generation.config
    embeds = config.embedder != NO_MODEL
    if request.vector is not None and request.vector.shape != (config.dimension,):
        raise InvalidVector(
            f"the query vector has {request.vector.size} values, but the collection has {config.dimension} dimensions",
            field="query.vector",
            metadata={"dimension": str(config.dimension)},
        )
    chosen = merged(request.settings, config.search_defaults, DEFAULTS)
    asked = _mode(request, chosen.mode, embeds=embeds)
    embedder, missing = _embedder(config, models) if embeds and request.text else (None, None)
    mode = _possible_mode(request, asked, missing)
    stages, lost = plan_stages(request, chosen, config, models, embedder, missing)
    degradations = []
    if missing is not None and (mode is not asked or lost):
        degradations.append(Degradation(kind=DegradationKind.EMBEDDER_MISSING, message=missing.message))
    if not generation.complete:
        message = f"generation {generation.number} is being built and lacks documents"
        degradations.append(Degradation(kind=DegradationKind.GENERATION_INCOMPLETE, message=message))
    needs_vector = request.vector is None and (mode is not RetrievalMode.LEXICAL or bool(stages))
    needs_tokens = any(stage.reranker.info.uses_token_vectors for stage in stages)
    wanted = request.limit + request.offset
    return Plan(
        mode=mode,
        dense_candidates=max(_set(chosen.dense_candidates), wanted),
        lexical_candidates=max(_set(chosen.lexical_candidates), wanted),
        # Not the preset `ef`: the server may have raised it since.
        ef=request.settings.ef,
        exact=_set(chosen.exact),
        fusion=_set(chosen.fusion),
        dense_weight=_set(chosen.dense_weight),
        rrf_k=_set(chosen.rrf_k),
        embedder=embedder if needs_vector or needs_tokens else None,
        instruction=request.instruction or config.query_instruction,
        stages=stages,
        rerank_on_failure=_set(chosen.rerank_on_failure),
        degradations=tuple(degradations),
    )


def _mode(request: SearchRequest, chosen: RetrievalMode | None, *, embeds: bool) -> RetrievalMode:
    """The requested mode; a default ``HYBRID`` falls back to the one index that the query can ask."""
    mode = _set(chosen)
    has_vector = request.vector is not None or embeds
    if request.settings.mode is None and mode is RetrievalMode.HYBRID:
        mode = mode if request.text and has_vector else RetrievalMode.LEXICAL if request.text else RetrievalMode.DENSE
    if mode is not RetrievalMode.DENSE and not request.text:
        raise InvalidArgument(f"mode '{mode.value}' needs a query text", field="query.text")
    if mode is not RetrievalMode.LEXICAL and not has_vector:
        raise UnsupportedByCollection(
            "the collection has no embedder: send query.vector, or search with mode 'lexical'", field="query.vector"
        )
    return mode


def _embedder(config: CollectionConfig, models: ModelCatalog) -> tuple[EmbedderService | None, ShortlistError | None]:
    """The model that made a generation's vectors; else the error that says what the server lacks."""
    try:
        return models.embedder(config.embedder, config.embedder_revision), None
    except (ModelNotFound, ModelMismatch) as error:
        return None, error


def _possible_mode(request: SearchRequest, mode: RetrievalMode, missing: ShortlistError | None) -> RetrievalMode:
    """The mode of a search without its embedder: the words of a query text can still be looked up."""
    if missing is None or request.vector is not None or mode is RetrievalMode.LEXICAL:
        return mode
    if mode is RetrievalMode.DENSE:
        raise missing
    return RetrievalMode.LEXICAL


def _set(value: T | None) -> T:
    """A setting that ``DEFAULTS`` fills in."""
    assert value is not None
    return value
