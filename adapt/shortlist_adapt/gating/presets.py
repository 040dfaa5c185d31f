"""Search settings of a candidate: as presets of a collection, as arguments of a search, and as JSON.

Pure functions; any thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from shortlist import Candidates, Collection, Fusion, Rerank, RerankStage, SearchDefaults
from shortlist_server.domain import LATE_INTERACTION

FIRST_WEIGHT = 0.5
"""Weight of a new reranker's stage before it is tuned."""


def to_json(defaults: SearchDefaults) -> dict[str, Any]:
    """The presets as JSON values."""
    values = dataclasses.asdict(defaults)
    values["rerank"]["stages"] = list(values["rerank"]["stages"])
    return values


def from_json(values: Mapping[str, Any]) -> SearchDefaults:
    """The presets that ``to_json`` wrote. Raises ``TypeError`` or ``KeyError`` for other values."""
    rerank = dict(values["rerank"])
    rerank["stages"] = tuple(RerankStage(**stage) for stage in rerank["stages"])
    return SearchDefaults(
        mode=values["mode"],
        candidates=Candidates(**values["candidates"]),
        fusion=Fusion(**values["fusion"]),
        rerank=Rerank(**rerank),
        recall_target=values["recall_target"],
    )


def arguments(defaults: SearchDefaults) -> dict[str, Any]:
    """Arguments of ``Client.search`` that ask for what these presets would give.

    What the presets leave open, the collection's own presets decide: the presets must have been made from them.
    """
    return {
        "mode": defaults.mode,
        "candidates": defaults.candidates,
        "fusion": defaults.fusion,
        "rerank": defaults.rerank,
    }


def with_reranker(collection: Collection, address: str, depth: int) -> SearchDefaults:
    """The presets of a collection with a new cross-encoder as the last stage.

    Late interaction stays before it. Another cross-encoder makes way: two of them would read the same texts.
    """
    present, effective = collection.config.search_defaults, collection.effective_search_defaults.rerank
    kept = [stage for stage in stages_of(effective) if stage.model == LATE_INTERACTION]
    new = RerankStage(model=address, depth=depth, weight=FIRST_WEIGHT)
    rerank = Rerank(enabled=True, on_failure=present.rerank.on_failure, stages=(*kept, new))
    return dataclasses.replace(present, rerank=rerank)


def stages_of(rerank: Rerank) -> tuple[RerankStage, ...]:
    """The stages of completed settings, with what can be tuned; the fields of a single stage count as one."""
    if rerank.enabled is False:
        return ()
    stages = rerank.stages or (RerankStage(model=rerank.model, depth=rerank.depth, weight=rerank.weight),)
    # Without their shares of the time: another stage changes these.
    return tuple(
        RerankStage(model=stage.model, depth=stage.depth, weight=stage.weight, instruction=stage.instruction)
        for stage in stages
        if stage.model
    )


def described(defaults: SearchDefaults) -> dict[str, Any]:
    """The settings that a tuning chooses, as names and values for people."""
    shown: dict[str, Any] = {}
    if defaults.candidates.dense is not None:
        shown["candidates"] = defaults.candidates.dense
    if defaults.fusion.dense_weight is not None:
        shown["fusion.dense_weight"] = defaults.fusion.dense_weight
    if defaults.rerank.enabled is False:
        shown["rerank.enabled"] = False
        return shown
    for number, stage in enumerate(defaults.rerank.stages, start=1):
        shown[f"stage {number}"] = f"{stage.model}, depth {stage.depth}, weight {_number(stage.weight)}"
    if not defaults.rerank.stages:
        for name in ("depth", "weight"):
            if getattr(defaults.rerank, name) is not None:
                shown[f"rerank.{name}"] = getattr(defaults.rerank, name)
    return shown


def _number(weight: float | None) -> str:
    return "the model's" if weight is None else f"{weight:g}"
