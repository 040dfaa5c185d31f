"""One evaluation from ingest to figures: the work of ``eval run`` between reading its options and printing.

Called from one thread.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.progress import Progress

from shortlist import Client
from shortlist_cli.evaluation import subject
from shortlist_cli.evaluation.beir import Dataset, Judged
from shortlist_cli.evaluation.measuring import (
    QUALITY_LIMIT,
    Found,
    IngestFigures,
    LatencyFigures,
    Step,
    find_all,
    measure_ingest,
    measure_latency,
    search_with_retries,
)
from shortlist_cli.evaluation.record import QueryRecord, RunRecord, SettingRecord
from shortlist_cli.evaluation.settings import RANKINGS, Settings
from shortlist_cli.output import note, progress_bar
from shortlist_server.ranking.measures import MEASURES, judge_each
from shortlist_server.ranking.significance import adjusted, difference, interval

WORST_QUERIES = 20
"""Queries that the report shows with their documents."""

WORST_HITS = 5
"""Hits that the report shows of each of these queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All figures of a run. ``memory`` is empty for a server that this program did not start."""

    record: RunRecord
    memory: Mapping[str, int]


def evaluate(
    server: subject.Server, collection: str, judged: Judged, settings: Sequence[Settings], concurrency: int
) -> Figures:
    """Ingests a ``Dataset``, searches, judges and times.

    Args:
        server: the server.
        collection: the collection; it exists.
        judged: the queries; a ``Dataset`` is ingested first.
        settings: the settings to measure; the first is the defaults.
        concurrency: searches at once in the second timing of the first setting.
    """
    client, queries = server.client, judged.queries
    embeds = subject.has_embedder(client, collection)
    rankings = [ranking for ranking in RANKINGS if embeds or ranking != "dense"]
    searches = {(ranking, repr(one.search(ranking))) for one in settings for ranking in rankings}
    ingested = None
    for one in settings:
        # One search each: an invalid setting fails here, before the documents are embedded.
        search_with_retries(client, collection, "a query", limit=QUALITY_LIMIT, **one.search("final"))
    with progress_bar() as progress:
        if isinstance(judged, Dataset):
            ingested = _account(ingest_corpus(client, collection, judged, progress))
        started = time.perf_counter()
        search_with_retries(client, collection, next(iter(queries.values())))
        first_search_ms = 1000 * (time.perf_counter() - started)
        task = progress.add_task("search", total=len(searches) * len(queries))
        found = _find(client, collection, queries, settings, rankings, lambda: progress.advance(task))
        records = [_setting_record(one, judged, found, rankings, number) for number, one in enumerate(settings)]
        times = progress.add_task("time searches", total=(len(settings) + len(rankings)) * len(queries))
        timing = _Timing(client, collection, list(queries.values()), lambda: progress.advance(times))
        stage_latency = {ranking: asdict(timing.of(settings[0].search(ranking))) for ranking in rankings}
        concurrent = timing.of(settings[0].search("final"), concurrency)
        records[0].latency = stage_latency["final"]
        for one, record in zip(settings[1:], records[1:], strict=True):
            record.latency = asdict(timing.of(one.search("final")))
    _test_against_defaults(records)
    run = RunRecord(
        name=judged.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["shortlist", *sys.argv[1:]]),
        about={
            **subject.collection_about(client, collection),
            **({"documents": judged.document_count} if isinstance(judged, Dataset) else {}),
            "models": {name: found["final", 0][next(iter(queries))].report[name] for name in ("embedder", "reranker")},
            "qrels": _digest(judged),
            "ingest": ingested,
            "first_search_ms": first_search_ms,
            "server_ready_seconds": server.seconds,
            "concurrent": {"searches_at_once": concurrency, **asdict(concurrent)},
            "machine": subject.machine(),
        },
        settings=records,
        stage_latency=stage_latency,
    )
    run.documents = subject.excerpts(client, collection, _shown_documents(run))
    return Figures(record=run, memory=server.memory())


class _Timing:
    """Times searches; each timing rotates the words of the queries differently."""

    def __init__(self, client: Client, collection: str, texts: Sequence[str], step: Step) -> None:
        self._client, self._collection, self._texts, self._step = client, collection, texts, step
        self._rotation = 0

    def of(self, arguments: Mapping[str, Any], concurrency: int = 1) -> LatencyFigures:
        """The times of searches with these arguments."""
        self._rotation += 1
        return measure_latency(
            self._client,
            self._collection,
            self._texts,
            arguments,
            concurrency=concurrency,
            rotation=self._rotation,
            step=self._step,
        )


def ingest_corpus(client: Client, collection: str, dataset: Dataset, progress: Progress) -> IngestFigures:
    """Sends the corpus, shows the progress, and notes the first refused documents with their reasons."""
    task = progress.add_task("ingest", total=dataset.document_count)
    figures = measure_ingest(
        client, collection, dataset, lambda failed: progress.update(task, advance=1, failed=failed)
    )
    for ack in figures.failures:
        note(f"document {ack.id!r} was refused: {ack.error}", above=progress)
    return figures


def _account(figures: IngestFigures) -> dict[str, Any]:
    names = ("seconds", "durable", "unchanged", "failed", "passages", "tokens", "documents_per_second")
    return {name: getattr(figures, name) for name in names}


Everything = dict[tuple[str, int], dict[str, Found]]
"""Results by ranking and number of the setting, then by query id."""


def _find(
    client: Client,
    collection: str,
    queries: Mapping[str, str],
    settings: Sequence[Settings],
    rankings: Sequence[str],
    step: Step,
) -> Everything:
    """Searches once for equal arguments: a setting of one stage leaves the rankings of other stages unchanged."""
    done: dict[str, dict[str, Found]] = {}
    found: Everything = {}
    for number, one in enumerate(settings):
        for ranking in rankings:
            arguments = one.search(ranking)
            key = f"{ranking} {arguments!r}"
            if key not in done:
                done[key] = find_all(client, collection, queries, arguments, step)
            found[ranking, number] = done[key]
    return found


def _setting_record(
    one: Settings, judged: Judged, found: Everything, rankings: Sequence[str], number: int
) -> SettingRecord:
    by_ranking = {ranking: found[ranking, number] for ranking in rankings}
    measures = {
        ranking: judge_each({query: of.ids for query, of in results.items()}, judged.qrels)
        for ranking, results in by_ranking.items()
    }
    quality = {
        measure: {
            ranking: asdict(interval([values[measure] for values in measures[ranking].values()]))
            for ranking in rankings
        }
        for measure in MEASURES
    }
    return SettingRecord(
        label=one.label,
        values=dict(one.values),
        quality=quality,
        queries=[
            QueryRecord(
                query=query,
                text=text,
                judged=judged.qrels[query],
                ids={ranking: by_ranking[ranking][query].ids for ranking in rankings},
                measures={ranking: measures[ranking][query] for ranking in rankings},
                hits=by_ranking["final"][query].hits,
                lost=by_ranking["final"][query].report["degradations"],
            )
            for query, text in judged.queries.items()
        ],
    )


def _test_against_defaults(records: Sequence[SettingRecord]) -> None:
    measure = next(iter(MEASURES))
    defaults = records[0].figures("final", measure)
    differences = [
        difference(list(defaults.values()), list(record.figures("final", measure).values())) for record in records[1:]
    ]
    for record, of, p in zip(records[1:], differences, adjusted([of.p for of in differences]), strict=True):
        record.versus_defaults = {**asdict(of), "p_adjusted": p}


def worst_queries(setting: SettingRecord, number: int = WORST_QUERIES) -> list[QueryRecord]:
    """The queries with the lowest final measure; among equals, those with the best fused ranking come first.

    Queries without a relevant document are left out: no search could do better.
    """
    measure = next(iter(MEASURES))
    bad = [
        record
        for record in setting.queries
        if record.measures["final"][measure] < 1 and any(grade > 0 for grade in record.judged.values())
    ]
    bad.sort(key=lambda record: (record.measures["final"][measure], -record.measures["fused"][measure]))
    return bad[:number]


def _shown_documents(run: RunRecord) -> list[str]:
    ids: dict[str, None] = {}
    for record in worst_queries(run.settings[0]):
        relevant = [id for id, grade in record.judged.items() if grade > 0]
        ids |= dict.fromkeys([*list(record.ids["final"])[:WORST_HITS], *relevant[:WORST_HITS]])
    return list(ids)


def _digest(judged: Judged) -> str:
    rows = sorted((query, sorted(grades.items())) for query, grades in judged.qrels.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
