"""Guarded sets: judged queries that the candidate may not answer much worse, of this collection or of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from shortlist import Client
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.gating.held_out import ChosenQueries
from shortlist_adapt.gating.scratch import Scratch
from shortlist_adapt.gating.searching import Searched, search_all
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.progress import Progress
from shortlist_adapt.reporting.decision import GuardedOutcome
from shortlist_cli.evaluation.beir import InvalidDataset, Judged, load_split
from shortlist_server.ranking.significance import difference

DEFAULT_SPLIT = "test"
MIN_OF_A_SOURCE = 20
"""Fewer held-out queries of a source say too little to refuse a candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A guarded set, read: its collection, and its queries with their grades."""

    collection: str
    judged: Judged


def read(settings: GateSettings) -> list[Guard]:
    """The guarded sets. Raises ``InvalidInput`` for one that is malformed."""
    guards = []
    for text in settings.guarded:
        collection, equals, place = text.partition("=")
        folder, colon, split = place.rpartition(":")
        if not colon or "/" in split:
            folder, split = place, DEFAULT_SPLIT
        if not (collection and equals and folder and split):
            raise InvalidInput(f"the guarded set {text!r} is not COLLECTION=DIR or COLLECTION=DIR:SPLIT")
        try:
            judged = load_split(Path(folder), split)
        except InvalidDataset as error:
            raise InvalidInput(f"the guarded set {text!r}: {error}") from error
        guards.append(Guard(collection=collection, judged=judged))
    return guards


def measure(
    client: Client,
    guards: Sequence[Guard],
    *,
    collection: str,
    candidate: Mapping[str, Any],
    embedder: str,
    scratch: Scratch,
    settings: GateSettings,
    progress: Progress,
) -> list[GuardedOutcome]:
    """Searches every guarded set under both sides.

    A set of the run's own collection is searched with all that the candidate changes. Another collection keeps its own
    settings and gets the candidate's embedder alone, because it may take the embedder later.

    Args:
        client: a client of the server.
        guards: the sets.
        collection: the run's own.
        candidate: arguments of the candidate's searches, without its generation.
        embedder: address of the candidate's embedder; "" where it has none.
        scratch: builds the generations; those of other collections are dropped before the next one is built.
        settings: the gate's.
        progress: where the searches are shown.
    """
    outcomes = []
    for guard in guards:
        own = guard.collection == collection
        arguments: dict[str, Any] = dict(candidate) if own else {}
        affected = bool(arguments or embedder)
        queries, qrels = guard.judged.queries, _grades(guard.judged)
        if embedder:
            arguments["generation"] = scratch.generation(guard.collection, embedder)
        progress.begin(f"searching {guard.judged.name}", len(queries) * (1 + affected), "searches")
        serving = search_all(client, guard.collection, queries, qrels, {}, progress)
        changed = search_all(client, guard.collection, queries, qrels, arguments, progress) if affected else serving
        outcomes.append(_outcome(guard, serving, changed, affected=affected, settings=settings))
        scratch.release(keep=collection)
    return outcomes


def by_source(
    collection: str, judged: ChosenQueries, serving: Searched, candidate: Searched, settings: GateSettings
) -> list[GuardedOutcome]:
    """Each source of the held-out queries as a guarded set of its own, where there are several large enough ones.

    A model may gain on all queries together and lose on those of one kind, for instance because it has learned titles.
    """
    large = [source for source, count in judged.sources.items() if count >= MIN_OF_A_SOURCE]
    if len(large) < 2:
        return []
    outcomes = []
    for source in large:
        ids = [id for id in judged.queries if judged.source_of[id] == source]
        before, after = ([side.figures[id] for id in ids] for side in (serving, candidate))
        name = f"held-out queries, source {source}"
        outcomes.append(_compared(name, collection, before, after, affected=True, settings=settings))
    return outcomes


def _outcome(
    guard: Guard, serving: Searched, candidate: Searched, *, affected: bool, settings: GateSettings
) -> GuardedOutcome:
    before, after = list(serving.figures.values()), list(candidate.figures.values())
    return _compared(guard.judged.name, guard.collection, before, after, affected=affected, settings=settings)


def _compared(
    name: str,
    collection: str,
    before: Sequence[float],
    after: Sequence[float],
    *,
    affected: bool,
    settings: GateSettings,
) -> GuardedOutcome:
    of = difference(before, after)
    return GuardedOutcome(
        name=name,
        collection=collection,
        queries=len(before),
        serving=fmean(before),
        candidate=fmean(after),
        low=of.low,
        high=of.high,
        affected=affected,
        holds=of.mean >= -settings.guarded_margin,
    )


def _grades(judged: Judged) -> dict[str, dict[str, int]]:
    return {query: dict(grades) for query, grades in judged.qrels.items()}
