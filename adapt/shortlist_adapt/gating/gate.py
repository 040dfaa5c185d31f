"""The gate: real searches of the candidate against what serves, on queries that no step before has seen.

The candidate's models go to the server under names that nobody uses, and a generation is built beside the one that
serves. Callers notice nothing. After a refusal both are removed. After a pass they wait for ``publish``. An interrupted
gate goes on where it was when it is run again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shortlist import Client, ModelKind
from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import GateRefused, InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.gating import guarding, held_out, presets, scratch, tuning, ways
from shortlist_adapt.gating.held_out import ChosenQueries
from shortlist_adapt.gating.judging import best_trial, compare, objection
from shortlist_adapt.gating.searching import Searched, median_ms, search_all
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.hiding import CUT_OUT
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery, read_lines
from shortlist_adapt.reporting import decision as decisions
from shortlist_adapt.reporting.decision import Decision, GatedModel, QueryChange, Side
from shortlist_adapt.reporting.model_card import write_card
from shortlist_adapt.reporting.report import write_report
from shortlist_adapt.settings import to_json

STEP = "gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Where the searches are made: the collection itself, or a copy in which the held-out queries' texts are hidden.

    Attributes:
        collection: to be searched.
        own: whether it is the run's own collection.
    """

    collection: str
    own: bool


def gate(
    folder: RunFolder, client: Client, collection: str, settings: GateSettings, progress: Progress, *, seed: int
) -> Decision:
    """Decides whether the models of the run may be published; writes ``gate.json`` and the report.

    Returns:
        The decision, which is that the candidate passed.

    Raises:
        GateRefused: the candidate is not better, or a guarded set fell. The models are gone from the server.
        InvalidInput: a step before is missing, a held-out query was seen, or there are too few of them.
        ShortlistError: a call failed. Run the gate again to go on.
    """
    kinds = scratch.candidates(folder)
    queries = held_out.read_queries(folder)
    held_out.check_unseen(folder, queries)
    judged = held_out.choose(queries, Split.HELD_OUT, settings, least=settings.min_queries, seed=seed)
    development = held_out.choose(queries, Split.DEVELOPMENT, settings, least=held_out.MIN_DEVELOPMENT, seed=seed)
    guards = guarding.read(settings)
    mark = _fingerprint(folder, collection, settings, kinds, seed)
    decision = _decided(folder, mark)
    if decision is None:
        models = [_sent(client, folder, collection, kind, progress) for kind in kinds]
        built = scratch.Scratch(client, progress)
        with _arena(client, folder, collection, queries, (judged, development), mark, progress) as arena:
            decision = _measure(
                client, collection, arena, models, built, judged, development, guards, settings, mark, progress
            )
            decision.save(folder.gate)
    return _end(client, folder, decision, kinds, mark, progress)


def cost(folder: RunFolder, client: Client, collection: str, settings: GateSettings) -> Cost:
    """What the gate costs: a generation of the collection, and of every other guarded one, and searches."""
    guards = guarding.read(settings)
    collections = {collection, *(guard.collection for guard in guards)}
    seconds = sum(client.estimate_reindex(one, force=True).seconds for one in collections)
    queries = held_out.read_queries(folder) if folder.queries.is_file() else []
    judged = min(settings.max_queries, sum(one.split is Split.HELD_OUT for one in queries))
    tuned = min(settings.max_queries, sum(one.split is Split.DEVELOPMENT for one in queries))
    guarded = sum(len(guard.judged.queries) for guard in guards)
    searches = 3 * judged + 2 * guarded + 2 * ways.MOST_WAYS * tuned
    return Cost(seconds=seconds + searches * _search_seconds(client, collection, queries), searches=searches)


def _search_seconds(client: Client, collection: str, queries: Sequence[TrainingQuery]) -> float:
    begin = time.perf_counter()
    sample = queries[:10]
    for query in sample:
        client.search(collection, query.text)
    return (time.perf_counter() - begin) / max(1, len(sample))


def _fingerprint(folder: RunFolder, collection: str, settings: GateSettings, kinds: Sequence[str], seed: int) -> str:
    digests = {kind: scratch.digest(folder.model / kind) for kind in kinds}
    values = {"settings": to_json(settings), "collection": collection, "models": digests, "seed": seed}
    return fingerprint(values, [folder.queries])


def _decided(folder: RunFolder, mark: str) -> Decision | None:
    """The saved decision about the same candidate under the same settings."""
    if not folder.gate.is_file():
        return None
    with contextlib.suppress(InvalidInput):
        saved = decisions.load(folder.gate)
        return saved if saved.fingerprint == mark else None
    return None


@contextlib.contextmanager
def _arena(
    client: Client,
    folder: RunFolder,
    collection: str,
    queries: Sequence[TrainingQuery],
    chosen: Sequence[ChosenQueries],
    mark: str,
    progress: Progress,
) -> Iterator[Arena]:
    """The collection itself; or a copy, where queries that were cut out of documents decide.

    Any search finds a document by its own words. So the copy lacks the words that the queries took from it, and
    it is deleted afterwards, but not when the gate was interrupted: then the next call goes on with it.
    """
    cut = {query.id: query for query in queries if any(query.id in of.queries for of in chosen)}
    if not any(query.source in CUT_OUT for query in cut.values()):
        yield Arena(collection=collection, own=True)
        return
    documents = list(held_out.hidden_documents(read_lines(folder.corpus, CorpusDocument), cut.values()))
    made = scratch.hidden_collection(client, collection, documents, mark, progress)
    yield Arena(collection=made, own=False)
    client.delete_collection(made)


def _sent(client: Client, folder: RunFolder, collection: str, kind: ModelKind, progress: Progress) -> GatedModel:
    model = scratch.model_of(folder, collection, kind)
    write_card(folder, model, None)
    return scratch.upload(client, folder, model, progress)


def _measure(
    client: Client,
    collection: str,
    arena: Arena,
    models: Sequence[GatedModel],
    built: scratch.Scratch,
    judged: ChosenQueries,
    development: ChosenQueries,
    guards: Sequence[guarding.Guard],
    settings: GateSettings,
    mark: str,
    progress: Progress,
) -> Decision:
    embedder = next((model.address for model in models if model.kind == "embedder"), "")
    generation = built.generation(arena.collection, embedder) if embedder else 0
    found = client.get_collection(arena.collection)
    tried = [
        tuning.tuned(client, arena.collection, way, development, settings, progress)
        for way in ways.ways(found, models, generation, settings)
    ]
    best = best_trial([trial for _, trial in tried[1:]])
    way = next(way for way, trial in tried if trial is best)
    present, tuned_present = tried[0]
    progress.begin("searching for the held-out queries", 3 * len(judged), "searches")
    serving, serving_side = _side(client, arena.collection, judged, {}, 1, progress)
    candidate, candidate_side = _side(client, arena.collection, judged, way.arguments(), 2, progress)
    alone = (
        _side(client, arena.collection, judged, present.arguments(), 3, progress)[1] if tuned_present.settings else None
    )
    outcomes = guarding.by_source(collection, judged, serving, candidate, settings)
    outcomes += guarding.measure(
        client,
        guards,
        collection=collection,
        candidate=presets.arguments(way.defaults),
        embedder=embedder if way.generation else "",
        scratch=built,
        settings=settings,
        progress=progress,
    )
    of, p = compare(list(serving.figures.values()), list(candidate.figures.values()), settings.margin)
    reason = objection(
        of=of,
        p=p,
        serving=serving_side,
        candidate=candidate_side,
        guarded=outcomes,
        alone=alone,
        settings=settings,
    )
    return Decision(
        passed=not reason,
        reason=reason
        or f"final nDCG@10 rises by {of.mean:+.4f} on {len(judged)} held-out queries ({decisions.chance(p)})",
        fingerprint=mark,
        collection=collection,
        models=way.models,
        generation=built.number(collection) if way.generation else 0,
        search_defaults=presets.to_json(way.defaults),
        trials=tuple(trial for _, trial in tried),
        chosen=way.name,
        sources=judged.sources,
        serving=serving_side,
        candidate=candidate_side,
        settings_alone=alone,
        difference=of,
        margin=settings.margin,
        p=p,
        guarded=tuple(outcomes),
        queries=_changes(judged, serving, candidate),
        hidden=not arena.own,
    )


def _side(
    client: Client,
    collection: str,
    judged: ChosenQueries,
    arguments: Mapping[str, object],
    rotation: int,
    progress: Progress,
) -> tuple[Searched, Side]:
    searched = search_all(client, collection, judged.queries, judged.qrels, arguments, progress)
    median = median_ms(client, collection, judged.queries, arguments, rotation)
    return searched, Side(ndcg_at_10=searched.mean, median_ms=median, degraded=searched.degraded)


def _changes(judged: ChosenQueries, serving: Searched, candidate: Searched) -> tuple[QueryChange, ...]:
    changes = [
        QueryChange(
            id=id,
            text=text,
            source=judged.source_of[id],
            serving=serving.figures[id],
            candidate=candidate.figures[id],
            relevant=tuple(document for document, grade in judged.qrels[id].items() if grade > 0),
            serving_ids=serving.ids[id],
            candidate_ids=candidate.ids[id],
        )
        for id, text in judged.queries.items()
    ]
    return tuple(sorted(changes, key=lambda one: (one.candidate - one.serving, one.id)))


def _end(
    client: Client, folder: RunFolder, decision: Decision, kinds: Sequence[ModelKind], mark: str, progress: Progress
) -> Decision:
    """Removes from the server what will not be published, writes the report, and says the decision."""
    done = folder.figures(STEP, mark)
    if done is None:
        kept = {model.address for model in decision.models} if decision.passed else set()
        models = [scratch.model_of(folder, decision.collection, kind) for kind in kinds]
        leaving = [model for model in models if model.address not in kept]
        scratch.drop_made_with(client, decision.collection, {model.address for model in leaving})
        scratch.remove(client, leaving, progress)
        write_report(folder)
        folder.note_done(
            STEP,
            mark,
            {"passed": decision.passed, "reason": decision.reason, "gain": decision.difference.mean, "p": decision.p},
        )
    if not decision.passed:
        raise GateRefused(f"refused: {decision.reason}")
    return decision
