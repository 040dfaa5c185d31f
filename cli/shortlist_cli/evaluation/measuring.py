"""Measures a collection through the client: what its searches find, and how fast they answer.

Every figure comes from calls that a user could make. Each stage is judged by searches of its own, not by parts of
another search's answer. Times are the caller's and include network and decoding. Call from one thread; searches run in
threads of their own.
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
"""Hits of a judged search; the depth of recall@100."""

QUALITY_CONCURRENCY = 4
"""Searches at once where only the hits matter, not the times."""

LATENCY_LIMIT = 10
"""Hits of a timed search: the default limit."""

WARMUP_SEARCHES = 10
"""Searches before the first timed one."""

RETRY_SECONDS = 0.1
"""Wait before repeating a refused search, where the server names no time."""

KEPT_HITS = 10
"""Hits whose ranks and scores in every stage are kept."""

Step = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestFigures:
    """Counts and time of an ingest.

    Attributes:
        seconds: from the first document sent to the last acknowledgement.
        durable, unchanged, failed: number of documents with this outcome.
        passages: number of passages made.
        tokens: number of tokens embedded.
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
        """Documents made durable per second; None where some were unchanged, because those cost nothing."""
        return None if self.unchanged or not self.durable else self.durable / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyFigures:
    """Times of searches, in milliseconds.

    Attributes:
        p50_ms, p99_ms: of the whole call, as the caller sees it.
        queries_per_second: number of searches over the time from the first start to the last end.
        stages_p50_ms: median of each stage, as the server reports it.
    """

    p50_ms: float
    p99_ms: float
    queries_per_second: float
    stages_p50_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of one search.

    Attributes:
        ids: the documents, best first.
        hits: the first ``KEPT_HITS``: id, score and, by stage, rank and score.
        report: models, dense strategy and degradations, as the server reports them.
    """

    ids: tuple[str, ...]
    hits: tuple[Mapping[str, Any], ...]
    report: Mapping[str, Any]


def measure_ingest(client: Client, collection: str, dataset: Dataset, step: Callable[[int], None]) -> IngestFigures:
    """Sends the corpus through one ingest stream.

    Args:
        client: a client of the server.
        collection: name of an existing collection.
        dataset: the documents to send.
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
        # No document is superseded, because the ids of a dataset are unique.
        durable=summary.durable,
        unchanged=summary.unchanged,
        failed=summary.failed,
        passages=summary.passages,
        tokens=summary.tokens,
        failures=summary.failures[:10],
    )


def search_with_retries(client: Client, collection: str, text: str, **arguments: Any) -> SearchResult:
    """``Client.search``, repeated while the server is overloaded; the waits count towards the call's time."""
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
    """Searches once for every query; returns the results by query id, in the order of ``queries``.

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
        result = search_with_retries(client, collection, text, limit=limit, include=part, **arguments)
        step()
        return _found(result)

    with ThreadPoolExecutor(QUALITY_CONCURRENCY) as threads:
        return dict(zip(queries, threads.map(search, queries.values()), strict=True))


def _found(result: SearchResult) -> Found:
    report = result.report
    numbers = [stage.stage for stage in report.rerank_stages]
    names = {number: "rerank" if len(numbers) == 1 else f"rerank {number}" for number in numbers}
    hits: list[Mapping[str, Any]] = []
    for hit in result.hits[:KEPT_HITS]:
        stages = {"dense": hit.dense, "lexical": hit.lexical, "fused": hit.fused}
        account = {name: {"rank": at.rank, "score": at.score} for name, at in stages.items() if at is not None}
        for at in hit.reranks:
            account[names[at.stage]] = {"rank": at.rank, "score": at.score}
        hits.append({"id": hit.id, "score": hit.score, **account})
    return Found(
        ids=tuple(hit.id for hit in result),
        hits=tuple(hits),
        report={
            "embedder": str(report.embedder or ""),
            "reranker": ", ".join(str(stage.model) for stage in report.rerank_stages),
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
    rotation: int,
    step: Step,
) -> LatencyFigures:
    """Times one search for every query with the default limit, ``concurrency`` at a time.

    Servers cache the embeddings of queries. ``rotation``, from 1 and different for each call, rotates the words of the
    queries: their texts are new, while their length and the words looked up stay the same.
    """
    warmup, texts = rotated_texts(list(queries), rotation)
    for text in warmup:
        search_with_retries(client, collection, text, limit=LATENCY_LIMIT, **arguments)

    def search(text: str) -> tuple[float, SearchResult]:
        started = time.perf_counter()
        result = search_with_retries(client, collection, text, limit=LATENCY_LIMIT, **arguments)
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


def rotated_texts(queries: Sequence[str], rotation: int) -> tuple[list[str], list[str]]:
    """The texts for the warm-up and for the timing of a rotation; no text occurs in another rotation."""
    return [rotated(text, 2 * rotation) for text in queries[:WARMUP_SEARCHES]], [
        rotated(text, 2 * rotation + 1) for text in queries
    ]


def rotated(text: str, places: int) -> str:
    """The text with its first ``places`` words moved to the end; a text of one word stays as it is.

    Each full rotation restores the order, so it adds a blank between the words instead.
    """
    words = text.split()
    rounds, first = divmod(places, len(words)) if words else (0, 0)
    return (" " * (1 + rounds)).join(words[first:] + words[:first])


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of ``values`` that at least ``percent`` percent of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]
