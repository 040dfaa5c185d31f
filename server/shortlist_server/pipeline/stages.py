"""The rerank stages of a search: which models rerank how much, in which order.

Settings name either one stage, by fields of its own, or a list of stages. A list replaces that of a lower level as a
whole. The fields of one stage, above a list, change the last stage of that list: the one that decides the top of the
answer. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from shortlist_server.domain import (
    LATE_INTERACTION,
    NO_MODEL,
    CollectionConfig,
    RerankFailurePolicy,
    RerankStage,
    SearchDefaults,
    SearchRequest,
)
from shortlist_server.errors import InvalidArgument, ShortlistError, UnsupportedByCollection
from shortlist_server.inference.base import (
    EmbedderService,
    ModelCatalog,
    RerankerService,
)

DEADLINE_SHARE = 0.8
"""Share of the time left for reranking. The stages that have not run yet divide it equally."""

FIELDS = {
    "model": "reranker",
    "depth": "rerank_depth",
    "weight": "rerank_weight",
    "instruction": "rerank_instruction",
    "deadline_share": "rerank_deadline_share",
}
"""The fields of a stage, and what ``SearchDefaults`` calls them for a single stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """A rerank stage with every setting final.

    Attributes:
        number: its place in the list of stages, from 1. A stage that cannot run leaves a gap.
        depth: documents of the ranking before the stage that it reranks, at most.
        weight: of its score in the score after it.
        instruction: "" for the model's default.
        deadline_share: share of the time left at its start that it may use.
    """

    number: int
    reranker: RerankerService
    depth: int
    weight: float
    instruction: str
    deadline_share: float


def one_stage(settings: SearchDefaults) -> RerankStage:
    """The stage that the fields of one stage set."""
    return RerankStage(**{name: getattr(settings, field) for name, field in FIELDS.items()})


def as_settings(stages: Sequence[RerankStage], *, listed: bool) -> SearchDefaults:
    """Settings that say these stages and nothing else: as a list, or by the fields of one stage."""
    if listed:
        return SearchDefaults(rerank_stages=tuple(stages))
    (stage,) = stages
    return SearchDefaults(**{field: getattr(stage, name) for name, field in FIELDS.items()})


def merged_stages(levels: Sequence[SearchDefaults]) -> SearchDefaults:
    """What several levels of settings, the highest first, say about the stages; nothing else is set."""
    above = RerankStage()
    for level in levels:
        if level.rerank_stages is not None:
            if above.model == NO_MODEL:
                break
            *others, last = level.rerank_stages
            return as_settings([*others, _first_set(above, last)], listed=True)
        above = _first_set(above, one_stage(level))
    return as_settings([above], listed=False)


def _first_set(above: RerankStage, below: RerankStage) -> RerankStage:
    set_above = {field.name: getattr(above, field.name) for field in fields(RerankStage)}
    return replace(below, **{name: value for name, value in set_above.items() if value is not None})


def effective_stages(settings: SearchDefaults, config: CollectionConfig, models: ModelCatalog) -> SearchDefaults:
    """The stages that settings name, completed with the rerankers' defaults and the server's.

    Depth and weight of a reranker that the server does not serve are None unless they are set.
    """
    stages = settings.rerank_stages or (one_stage(settings),)
    completed = []
    for place, stage in enumerate(stages):
        name = stage.model or config.reranker
        info = models.reranker(name).info if name in models.reranker_names else None
        own = RerankStage(
            model=name,
            depth=None if info is None else info.default_depth,
            weight=None if info is None else info.default_weight,
            instruction="",
            deadline_share=DEADLINE_SHARE / (len(stages) - place),
        )
        completed.append(_first_set(stage, own))
    return as_settings(completed, listed=settings.rerank_stages is not None)


def plan_stages(
    request: SearchRequest,
    chosen: SearchDefaults,
    config: CollectionConfig,
    models: ModelCatalog,
    embedder: EmbedderService | None,
    missing: ShortlistError | None,
) -> tuple[tuple[PlannedStage, ...], bool]:
    """The stages that a search runs, and whether it goes without some because its embedder is missing.

    Args:
        chosen: the settings of all levels, merged.
        embedder: the generation's; None in a search without one.
        missing: the error that says why the generation's embedder is not there; None where it is.

    Raises:
        InvalidArgument: the request asks for reranking, and there is no reranker or no text for it.
        ModelNotFound: the server has no such reranker.
        UnsupportedByCollection: the request asks for a reranker that this collection cannot use.
    """
    wished = _wished(request, chosen, config, models)
    possible = [
        (number, stage, reranker)
        for number, stage, reranker in wished
        if _is_possible(request, chosen, number, reranker, embedder, missing)
    ]
    planned = tuple(
        PlannedStage(
            number=number,
            reranker=reranker,
            depth=stage.depth or reranker.info.default_depth,
            weight=reranker.info.default_weight if stage.weight is None else stage.weight,
            instruction=stage.instruction or request.instruction,
            deadline_share=stage.deadline_share or DEADLINE_SHARE / (len(possible) - place),
        )
        for place, (number, stage, reranker) in enumerate(possible)
    )
    return planned, missing is not None and len(possible) < len(wished)


def _wished(
    request: SearchRequest, chosen: SearchDefaults, config: CollectionConfig, models: ModelCatalog
) -> list[tuple[int, RerankStage, RerankerService]]:
    """The stages that the settings name; none where they name none, or where the query has no text for them."""
    if not chosen.rerank:
        return []
    stages = chosen.rerank_stages or (one_stage(chosen),)
    names = [stage.model or config.reranker for stage in stages]
    if not request.text or (chosen.rerank_stages is None and names == [NO_MODEL]):
        if request.settings.rerank:
            raise InvalidArgument(
                "no reranker is set: name one in rerank.model" if request.text else "reranking needs a query text",
                field="rerank.enabled",
            )
        return []
    if NO_MODEL in names:
        raise InvalidArgument(
            "the collection has no reranker: name one for the stage",
            field=f"rerank.stages[{names.index(NO_MODEL)}].model",
        )
    return [
        (number, stage, models.reranker(name))
        for number, (stage, name) in enumerate(zip(stages, names, strict=True), 1)
    ]


def _is_possible(
    request: SearchRequest,
    chosen: SearchDefaults,
    number: int,
    reranker: RerankerService,
    embedder: EmbedderService | None,
    missing: ShortlistError | None,
) -> bool:
    """Whether a stage can run: one that reads token vectors needs an embedder that makes them for the query."""
    if not reranker.info.uses_token_vectors or (embedder is not None and embedder.info.token_vectors):
        return True
    asked = request.settings
    if missing is not None:
        if chosen.rerank_on_failure is RerankFailurePolicy.FAIL:
            raise missing
    elif asked.rerank or asked.reranker is not None or asked.rerank_stages is not None:
        name = NO_MODEL if embedder is None else embedder.info.name
        raise UnsupportedByCollection(
            f"reranker '{LATE_INTERACTION}' needs token vectors, which embedder '{name}' does not make: name another"
            " reranker",
            field="rerank.model" if chosen.rerank_stages is None else f"rerank.stages[{number - 1}].model",
        )
    return False
