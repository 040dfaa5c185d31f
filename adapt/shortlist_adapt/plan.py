"""The plan of a run: the collection, the seed and the settings of every step, kept as ``plan.json``.

A command that begins a run writes the plan; options given to a later step change it there. The file never has a
secret: keys are named by file or variable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, write_json
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.merging.settings import MergeSettings
from shortlist_adapt.mining.settings import MiningSettings
from shortlist_adapt.publishing import PublishSettings
from shortlist_adapt.settings import changed, from_json, nested, setting, to_json
from shortlist_adapt.synthesis.settings import SynthesisSettings
from shortlist_adapt.training.settings import EmbedderTraining, RerankerTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All settings of a run."""

    collection: str = setting("", "The collection that the run adapts to.")
    seed: int = setting(0, "Seed of every random choice.", least=0, most=2**31 - 1)
    embedder_base: str = setting("", "Model that the embedder starts from, a name or a folder; what serves by default.")
    reranker_base: str = setting("", "Model that the reranker starts from; the embedder's own base by default.")
    synthesis: SynthesisSettings = nested(SynthesisSettings)
    mining: MiningSettings = nested(MiningSettings)
    embedder: EmbedderTraining = nested(EmbedderTraining)
    reranker: RerankerTraining = nested(RerankerTraining)
    merge: MergeSettings = nested(MergeSettings)
    gate: GateSettings = nested(GateSettings)
    publish: PublishSettings = nested(PublishSettings)

    def changed(self, values: Mapping[str, Any], step: str = "") -> Plan:
        """The plan with some values replaced, by path from the step on. Raises ``InvalidInput``."""
        return changed(self, {f"{step}.{path}" if step else path: value for path, value in values.items()})


def begin(folder: RunFolder, collection: str, seed: int | None = None) -> Plan:
    """The plan of the folder, or a new one.

    Raises:
        InvalidInput: the folder has a run of another collection or seed, or cannot be made.
    """
    folder.prepare()
    if not folder.plan.exists():
        plan = Plan(collection=collection, seed=seed or 0)
        write_plan(folder, plan)
        return plan
    plan = read_plan(folder)
    if plan.collection != collection:
        raise InvalidInput(f"{folder.root} has a run of the collection {plan.collection!r}; take another folder")
    if seed is not None and seed != plan.seed:
        raise InvalidInput(f"{folder.root} has a run with the seed {plan.seed}; take another folder for another seed")
    return plan


def read_plan(folder: RunFolder) -> Plan:
    """The plan of a run that was begun. Raises ``InvalidInput``."""
    try:
        values = json.loads(folder.plan.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{folder.root} has no run: begin one with 'shortlist adapt run' or 'shortlist adapt synthesise'"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{folder.plan} cannot be read: {error}") from error
    try:
        plan = from_json(Plan, values)
    except InvalidInput as error:
        raise InvalidInput(f"{folder.plan}: {error}") from error
    if not plan.collection:
        raise InvalidInput(f"{folder.plan}: no collection is named")
    return plan


def write_plan(folder: RunFolder, plan: Plan) -> None:
    """Replaces the plan of the folder."""
    write_json(folder.plan, to_json(plan))


def with_options(folder: RunFolder, step: str, values: Mapping[str, Any]) -> Plan:
    """The plan after options of a step; keeps what they change. Raises ``InvalidInput``."""
    plan = read_plan(folder)
    if values:
        plan = plan.changed(values, step)
        write_plan(folder, plan)
    return plan
