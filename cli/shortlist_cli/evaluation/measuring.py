"""Measuring a collection through its client: what its searches find, and how fast they answer.

Every figure is made by calls a user would make. The ranking of a stage is that of its own searches, not something
picked from the answer of another one; times are the caller's, network and decoding included. Called from one thread;
searches run in threads of their own.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from shortlist import Ack, Client, Include, Overloaded, SearchResult
from shortlist_cli.evaluation.beir import Dataset

QUALITY_LIMIT = 100
"""Hits of a search that is judged; the depth of recall@100."""

QUALITY_CONCURRENCY = 4
"""Searches at once where only their hits matter."""

LATENCY_LIMIT = 10
"""Hits of a search that is timed: the default limit."""

WARMUP_SEARCHES = 10
"""Searches before the first that is timed."""

RETRY_SECONDS = 0.1
"""Wait before a search that was refused is repeated, where the server does not say how long."""

KEPT_HITS = 10
"""Hits whose account of every stage is kept."""

Step = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestFigures:
    """What an ingest took.

    Attributes:
        seconds: from the first document sent to the last acknowledgement.
        durable, unchanged, failed: documents by what became of them.
        passages: passages made.
        tokens: tokens embedded.
        failures: the first acknowledgements of failed documents.
    """

    seconds: float
    durable: int
    unchanged: int
    failed: int
    passages: int
    tokens: int
    failures: tuple[Ack, ...]

    @property
    def documents_per_second(self) -> float | None:
        """Documents made durable per second; None where some were there before, because those cost nothing."""
        return None if self.unchanged or not self.durable else self.durable / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFigures:
    """Times of searches, in milliseconds.

    Attributes:
        p50_ms, p99_ms: of the whole call, as the caller sees it.
        queries_per_second: all searches by the time from the first one's start to the last one's end.
        stages_p50_ms: of each stage, as the server reports it.
    """

    p50_ms: float
    p99_ms: float
    queries_per_second: float
    stages_p50_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one search found.

    Attributes:
        ids: the documents, best first.
        hits: the first ``KEPT_HITS``: id, score and, by stage, rank and score.
        report: the models that took part and what was lost, as the server says.
    """

    ids: tuple[str, ...]
    hits: tuple[Mapping[str, Any], ...]
    report: Mapping[str, Any]


def measure_ingest(client: Client, collection: str, dataset: Dataset, step: Callable[[int], None]) -> IngestFigures:
    """Sends the corpus through one ingest stream.

    Args:
        client: a client of the server.
        collection: the collection; it exists.
        dataset: what to send.
        step: called after each acknowledgement with the number of failures so far.
    """
    started = time.perf_counter()
    ingest = client.ingest(collection, dataset.documents())
    failed = 0
    for ack in ingest:
        failed += not ack.ok
        step(failed)
    seconds = time.perf_counter() - started
    summary = ingest.summary
    return IngestFigures(
        seconds=seconds,
        # A superseded document cannot be: the ids of a dataset are unique.
        durable=summary.durable,
        unchanged=summary.unchanged,
        failed=summary.failed,
        passages=summary.passages,
        tokens=summary.tokens,
        failures=summary.failures[:10],
    )


def patient_search(client: Client, collection: str, text: str, **arguments: Any) -> SearchResult:
    """``Client.search``, repeated for as long as the server has too much to do; the waits are part of a call's time."""
    while True:
        try:
            return client.search(collection, text, **arguments)
        except Overloaded as error:
            time.sleep(error.retry_after_seconds or RETRY_SECONDS)


def find_all(
    client: Client,
    collection: str,
    queries: Mapping[str, str],
    arguments: Mapping[str, Any],
    step: Step,
    *,
    limit: int = QUALITY_LIMIT,
) -> dict[str, Found]:
    """Searches for every query once; returns what was found by query id, in the order of ``queries``.

    Args:
        client: a client of the server.
        collection: the collection.
        queries: texts by id.
        arguments: more arguments of ``Client.search``.
        step: called after each search.
        limit: hits of each search; the server raises the number of candidates to it.
    """

    def search(text: str) -> Found:
        part = Include(text=False, metadata=False)
        result = patient_search(client, collection, text, limit=limit, include=part, **arguments)
        step()
        return _found(result)

    with ThreadPoolExecutor(QUALITY_CONCURRENCY) as threads:
        return dict(zip(queries, threads.map(search, queries.values()), strict=True))


def _found(result: SearchResult) -> Found:
    report = result.report
    hits = []
    for hit in result.hits[:KEPT_HITS]:
        scores = {"dense": hit.dense, "lexical": hit.lexical, "fused": hit.fused, "rerank": hit.rerank}
        account = {name: {"rank": at.rank, "score": at.score} for name, at in scores.items() if at is not None}
        hits.append({"id": hit.id, "score": hit.score, **account})
    return Found(
        ids=tuple(hit.id for hit in result),
        hits=tuple(hits),
        report={
            "embedder": str(report.embedder or ""),
            "reranker": str(report.reranker or ""),
            "dense_strategy": report.dense_strategy,
            "degradations": [lost.kind for lost in report.degradations],
        },
    )


def measure_latency(
    client: Client,
    collection: str,
    queries: Iterable[str],
    arguments: Mapping[str, Any],
    *,
    concurrency: int,
    turn: int,
    step: Step,
) -> LatencyFigures:
    """Searches every query once with the default limit, ``concurrency`` at a time.

    Servers keep the embeddings of queries they saw. ``turn``, from 1 and another one for each call, turns the words of
    the queries, so that they are new while their length and the words looked up stay the same.
    """
    warmup, texts = new_texts(list(queries), turn)
    for text in warmup:
        patient_search(client, collection, text, limit=LATENCY_LIMIT, **arguments)

    def search(text: str) -> tuple[float, SearchResult]:
        started = time.perf_counter()
        result = patient_search(client, collection, text, limit=LATENCY_LIMIT, **arguments)
        seconds = time.perf_counter() - started
        step()
        return seconds, result

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as threads:
        timed = list(threads.map(search, texts))
    elapsed = time.perf_counter() - started
    times = [seconds for seconds, _ in timed]
    stages: dict[str, list[float]] = {}
    for _, result in timed:
        for stage, seconds in result.report.stage_seconds.items():
            stages.setdefault(stage, []).append(seconds)
    return LatencyFigures(
        p50_ms=1000 * percentile(times, 50),
        p99_ms=1000 * percentile(times, 99),
        queries_per_second=len(texts) / elapsed,
        stages_p50_ms={stage: 1000 * statistics.median(values) for stage, values in stages.items()},
    )


def new_texts(queries: Sequence[str], turn: int) -> tuple[list[str], list[str]]:
    """The queries' texts for the warm-up and for the timing of a turn, none of them one of another turn."""
    return [turned(text, 2 * turn) for text in queries[:WARMUP_SEARCHES]], [
        turned(text, 2 * turn + 1) for text in queries
    ]


def turned(text: str, places: int) -> str:
    """The text with its first ``places`` words moved to the end; a text of one word stays as it is.

    Once round, the words are where they were, so there is a blank more between them.
    """
    words = text.split()
    rounds, first = divmod(places, len(words)) if words else (0, 0)
    return (" " * (1 + rounds)).join(words[first:] + words[:first])


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of ``values`` that is not less than ``percent`` percent of them (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
