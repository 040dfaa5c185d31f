"""Measuring a collection through its client: how good its rankings are, and how fast its answers.

Every figure is made by calls a user would make. The ranking of a stage is that of its own searches, not something
picked from the answer of another one. Quality is by ``ir-measures``, whose definitions are those of trec_eval; times
are the caller's, network and decoding included. Called from one thread; searches run in threads of their own.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from shortlist import Ack, Client, SearchResult
from shortlist._cli._beir import Dataset

RANKINGS: Mapping[str, Mapping[str, Any]] = {
    "dense": {"mode": "dense", "rerank": False},
    "lexical": {"mode": "lexical", "rerank": False},
    "fused": {"mode": "hybrid", "rerank": False},
    "final": {},
}
"""The rankings that are judged, with the settings of their searches; "final" is a search without settings."""

QUALITY_LIMIT = 100
"""Hits of a search that is judged; the depth of recall@100."""

QUALITY_CONCURRENCY = 4
"""Searches at once where only their hits matter."""

LATENCY_LIMIT = 10
"""Hits of a search that is timed: the default limit."""

WARMUP_SEARCHES = 10
"""Searches before the first that is timed."""

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
    """Times of searches with the default settings, in milliseconds.

    Attributes:
        p50_ms, p99_ms: of the whole call, as the caller sees it.
        queries_per_second: all searches by the time from the first one's start to the last one's end.
        stages_p50_ms: of each stage, as the server reports it.
    """

    p50_ms: float
    p99_ms: float
    queries_per_second: float
    stages_p50_ms: Mapping[str, float]


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


def measure_quality(client: Client, collection: str, dataset: Dataset, step: Step) -> dict[str, dict[str, float]]:
    """Searches every query once for each of ``RANKINGS``, and judges the rankings.

    Returns:
        By measure ("ndcg_at_10", "recall_at_100", "mrr_at_10"), then by ranking: the mean over all queries, 0 to 1. A
        query without hits counts as 0.
    """
    judged: dict[str, dict[str, float]] = {"ndcg_at_10": {}, "recall_at_100": {}, "mrr_at_10": {}}
    for name, settings in RANKINGS.items():

        def search(text: str, settings: Mapping[str, Any] = settings) -> list[str]:
            hits = [hit.id for hit in client.search(collection, text, limit=QUALITY_LIMIT, **settings)]
            step()
            return hits

        with ThreadPoolExecutor(QUALITY_CONCURRENCY) as threads:
            found = list(threads.map(search, dataset.queries.values()))
        for measure, value in judge(dict(zip(dataset.queries, found, strict=True)), dataset.judgements).items():
            judged[measure][name] = value
    return judged


def judge(rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """nDCG@10, recall@100 and MRR@10 of rankings: the mean over all judged queries.

    Args:
        rankings: ids of the documents found, best first, by query id.
        judgements: grades by query id and document id.
    """
    import ir_measures

    measures = {
        "ndcg_at_10": ir_measures.nDCG @ 10,
        "recall_at_100": ir_measures.R @ 100,
        "mrr_at_10": ir_measures.RR @ 10,
    }
    # trec_eval orders by score and breaks ties by id: the negated rank says that the order given is the order meant.
    run = {
        query: {document: -float(rank) for rank, document in enumerate(ranking)} for query, ranking in rankings.items()
    }
    grades = {query: dict(documents) for query, documents in judgements.items()}
    means = ir_measures.calc_aggregate(measures.values(), grades, run)
    return {name: float(means[measure]) for name, measure in measures.items()}


def measure_latency(
    client: Client, collection: str, queries: Iterable[str], *, concurrency: int, turn: int, step: Step
) -> LatencyFigures:
    """Searches every query once with the default settings, ``concurrency`` at a time.

    Servers keep the embeddings of queries they saw. ``turn``, from 1 and another one for each call, turns the words of
    the queries, so that they are new while their length and the words looked up stay the same.
    """
    texts = [turned(text, turn) for text in queries]
    for text in texts[:WARMUP_SEARCHES]:
        client.search(collection, turned(text, 1 + len(text.split()) // 2), limit=LATENCY_LIMIT)

    def search(text: str) -> tuple[float, SearchResult]:
        started = time.perf_counter()
        result = client.search(collection, text, limit=LATENCY_LIMIT)
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


def turned(text: str, places: int) -> str:
    """The text with its first ``places`` words moved to the end; a text of one word stays as it is."""
    words = text.split()
    first = places % len(words) if words else 0
    return " ".join(words[first:] + words[:first])


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of ``values`` that is not less than ``percent`` percent of them (nearest rank)."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]
