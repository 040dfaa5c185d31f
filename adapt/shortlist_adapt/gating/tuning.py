"""Finds the search settings that rank the development queries best, for one way to use the models.

One deep search for each query gives the scores of every stage. From these, the server's own formulas give the ranking
under any weights and depths. Cross-validation gives a figure that the choice has not flattered.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from shortlist import Client, RerankStage
from shortlist_adapt.gating import presets
from shortlist_adapt.gating.held_out import ChosenQueries
from shortlist_adapt.gating.searching import search_all
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.gating.ways import Way
from shortlist_adapt.progress import Progress
from shortlist_adapt.reporting.decision import Trial
from shortlist_cli.evaluation.choices import OWN_STAGE, Grid, StageValues
from shortlist_cli.evaluation.tuning import Observation, observe, score, tune
from shortlist_server.domain import LATE_INTERACTION

DENSE_WEIGHTS = tuple(tenths / 10 for tenths in range(2, 9))
CANDIDATES = (100,)
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
DEPTHS = (50, 100)
"""Fewer values than ``shortlist tune-search`` tries: two to three hundred queries cannot tell more of them apart."""

_PORTION = 16


def tuned(
    client: Client,
    collection: str,
    way: Way,
    development: ChosenQueries,
    settings: GateSettings,
    progress: Progress,
) -> tuple[Way, Trial]:
    """The way with the settings that rank the development queries best, and its figures there.

    Without ``settings.tune``, the way stays as it is and is only measured.
    """
    import numpy as np

    searches = len(development) * (2 if settings.tune else 1)
    progress.begin(f"trying on development queries: {way.name}", searches, "searches")
    before = search_all(client, collection, development.queries, development.qrels, way.arguments(), progress)
    if not settings.tune:
        return way, Trial(name=way.name, development=before.mean, untuned=before.mean, settings={})
    grid = grid_of(way, settings)
    observations: dict[str, Observation] = {}
    items = iter(development.queries.items())
    while portion := dict(itertools.islice(items, _PORTION)):
        observations |= observe(client, collection, portion, grid, lambda: None, generation=way.generation)
        progress.advance(len(portion))
    choices = grid.choices()
    for number in range(len(grid.stages)):
        if all(np.isnan(at.reranks[number]).all() for at in observations.values()):
            # Nothing was reranked: the collection has no such stage.
            choices = [choice for choice in choices if choice.stages[number].weight == 0] or choices
    scores = score(observations, development.qrels, choices, lambda: None)
    found = tune(np.array([before.figures[id] for id in observations]), scores, choices)
    chosen = way if found.choice is None else replace(way, defaults=found.choice.over(way.defaults))
    trial = Trial(
        name=way.name,
        development=float(found.held_out.mean()),
        untuned=before.mean,
        settings={} if found.choice is None else presets.described(chosen.defaults),
    )
    return chosen, trial


def grid_of(way: Way, settings: GateSettings) -> Grid:
    """The settings to choose from: those of every stage that the way has.

    A new reranker takes part with some weight, and reads no more than ``settings.rerank_depths`` allow.
    """
    stages = [values_of(stage, way.new_reranker, settings) for stage in way.defaults.rerank.stages]
    return Grid(
        dense_weights=DENSE_WEIGHTS,
        candidates=CANDIDATES,
        stages=stages or (StageValues(stage=OWN_STAGE, weights=WEIGHTS, depths=(20, *DEPTHS)),),
    )


def values_of(stage: RerankStage, new_reranker: str, settings: GateSettings) -> StageValues:
    """The weights and depths of a stage to choose from."""
    bare = replace(stage, weight=None, depth=None)
    if stage.model == new_reranker:
        return StageValues(stage=bare, weights=WEIGHTS[1:], depths=settings.rerank_depths)
    depths = DEPTHS if stage.model == LATE_INTERACTION else (20,)
    return StageValues(stage=bare, weights=WEIGHTS, depths=depths)
