"""Publishes what the gate let pass: the models' cards, the switch to the new generation, the tuned settings.

Every part is repeatable. What served before stays as the former generation, and its settings stay in the step's record:
a roll-back takes one command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shortlist import Client
from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import AdaptError, GateRefused, InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.gating import presets, scratch
from shortlist_adapt.gating.searching import search_all
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import TrainingQuery, read_lines
from shortlist_adapt.reporting import decision as decisions
from shortlist_adapt.reporting.decision import Decision
from shortlist_adapt.reporting.model_card import write_card
from shortlist_adapt.reporting.report import write_report
from shortlist_adapt.settings import setting, to_json

STEP = "publish"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSettings:
    """What publication does beside making the models ready; see each field's help."""

    switch: bool = setting(True, "Let the collection use the new models. Off: they wait on the server.")
    verify: bool = setting(True, "Search the held-out queries after the switch, and roll back if they rank worse.")
    tolerance: float = setting(
        0.01, "Largest accepted difference of nDCG@10 between the gate and the searches after it.", least=0, most=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was published.

    Attributes:
        collection: the collection.
        models: the addresses of its new models.
        switched: whether the collection uses them.
        generation: the one made with the new embedder; 0 where the embedder stayed.
        former: the one that served before; 0 where the embedder stayed.
        former_search_defaults: the presets before, as ``presets.to_json`` writes them.
        ndcg_at_10: of searches after the switch, on the held-out queries; None where they were not made.
    """

    collection: str
    models: tuple[str, ...]
    switched: bool
    generation: int
    former: int
    former_search_defaults: Mapping[str, Any]
    ndcg_at_10: float | None


class PublishedWorse(AdaptError):
    """Searches after the switch ranked worse than in the gate. Everything was rolled back."""


def publish(
    folder: RunFolder, client: Client, collection: str, settings: PublishSettings, progress: Progress, *, seed: int
) -> Published:
    """Publishes the candidate that passed the gate; returns at once what an earlier call published.

    Raises:
        GateRefused: the gate refused the candidate.
        InvalidInput: the gate was not run, or the models changed since.
        PublishedWorse: the collection ranked worse after the switch than in the gate, and was rolled back.
        ShortlistError: a call failed. Publish again to go on.
    """
    decision = decisions.load(folder.gate)
    if not decision.passed:
        raise GateRefused(f"the gate refused the candidate: {decision.reason}")
    if decision.collection != collection:
        raise InvalidInput(f"{folder.gate.name} is about the collection {decision.collection}")
    for model in decision.models:
        if scratch.digest(folder.model / model.kind) != model.digest:
            raise InvalidInput(f"{folder.model.name}/{model.kind} changed since the gate; run the gate again")
    mark = fingerprint({"settings": to_json(settings), "gate": decision.fingerprint, "seed": seed})
    done = folder.figures(STEP, mark)
    if done is not None:
        return Published(**{**done, "models": tuple(done["models"])})
    for model in decision.models:
        write_card(folder, model, decision)
        scratch.upload(client, folder, model, progress)
    embedder = decision.model("embedder")
    generation = scratch.build(client, collection, embedder.address, progress) if embedder is not None else 0
    before = _before(folder, client, collection, mark)
    figure = None
    if settings.switch:
        figure = _switch(folder, client, decision, generation, before, settings, progress)
    published = Published(
        collection=collection,
        models=tuple(model.address for model in decision.models),
        switched=settings.switch,
        generation=generation,
        former=before.generation if settings.switch and generation not in (0, before.generation) else 0,
        former_search_defaults=before.search_defaults,
        ndcg_at_10=figure,
    )
    write_report(folder)
    folder.note_done(STEP, mark, asdict(published))
    return published


def cost(folder: RunFolder, client: Client, collection: str) -> Cost:
    """What publication costs: nothing but searches, where the gate left its generation; else a generation."""
    decision = decisions.load(folder.gate)
    embedder = decision.model("embedder")
    there = {one.embedder for one in client.generations(collection)}
    seconds = 0.0
    if embedder is not None and embedder.address not in there:
        seconds = client.estimate_reindex(collection, force=True).seconds
    return Cost(seconds=seconds, searches=len(decision.queries))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """What served before the switch."""

    generation: int
    search_defaults: Mapping[str, Any]


def _before(folder: RunFolder, client: Client, collection: str, mark: str) -> _Before:
    """What served before the switch, written down before the first change: a killed call may have switched already."""
    step = f"{STEP}-before"
    noted = folder.figures(step, mark)
    if noted is None:
        found = client.get_collection(collection)
        noted = {
            "generation": found.generation,
            "search_defaults": presets.to_json(found.config.search_defaults),
        }
        folder.note_done(step, mark, noted)
    return _Before(**noted)


def _switch(
    folder: RunFolder,
    client: Client,
    decision: Decision,
    generation: int,
    before: _Before,
    settings: PublishSettings,
    progress: Progress,
) -> float | None:
    """Lets the candidate serve and checks it; returns its figure, None where it was not measured."""
    collection = decision.collection
    if generation:
        client.switch_generation(collection, generation)
    client.update_collection(collection, presets.from_json(decision.search_defaults))
    # In the gate's copy the words of the queries were hidden: its figure is another one.
    if not settings.verify or decision.hidden:
        return None
    chosen = {query.id: query.text for query in decision.queries}
    qrels = {
        query.id: {**dict.fromkeys(query.rejected, 0), **query.positives}
        for query in read_lines(folder.queries, TrainingQuery)
        if query.id in chosen
    }
    progress.begin("searching for the held-out queries again", len(chosen), "searches")
    figure = search_all(client, collection, chosen, qrels, {}, progress).mean
    if figure < decision.candidate.ndcg_at_10 - settings.tolerance:
        client.update_collection(collection, presets.from_json(before.search_defaults))
        if generation not in (0, before.generation):
            client.switch_generation(collection, before.generation)
        raise PublishedWorse(
            f"rolled back: after the switch, final nDCG@10 on the held-out queries was {figure:.4f}, and "
            f"{decision.candidate.ndcg_at_10:.4f} in the gate; the collection has probably changed: run the gate again"
        )
    return figure
