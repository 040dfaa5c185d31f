"""What the models' lanes report: how long work waits, what batches are made of, and how often a query was known.

A lane has the labels ``model`` and ``lane`` (query, passage or rerank); its series are looked up once, when it is made.
Queues and caches are read when the page of metrics is. With tracing a batch is a span of its own, linked to the spans
in which its items were submitted: it serves several requests, so it can be under none of them. Any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import SpanContext, Tracer
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shortlist_server.observe import tracing

LABELS = ("model", "lane")
WAIT_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0)
BATCH_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_ITEMS = (1, 2, 4, 8, 16, 32, 64)
BATCH_TOKENS = (8, 32, 128, 256, 512, 1024, 2048, 4096, 8192, 32768, 131072)


class ModelMetrics(Collector):
    """The metrics of all lanes and query caches of a server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.wait_seconds = Histogram(
            "shortlist_lane_wait_seconds",
            "Time items waited in a lane for their batch, those that were dropped then included.",
            LABELS,
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "shortlist_lane_batch_seconds",
            "Time the model took for a batch.",
            LABELS,
            buckets=BATCH_SECONDS,
            registry=registry,
        )
        self.batch_items = Histogram(
            "shortlist_lane_batch_items",
            "Items of a batch: queries, passages or requests to rerank.",
            LABELS,
            buckets=BATCH_ITEMS,
            registry=registry,
        )
        self.batch_tokens = Histogram(
            "shortlist_lane_batch_tokens",
            "Tokens the model read in a batch; the sum is all that it read.",
            LABELS,
            buckets=BATCH_TOKENS,
            registry=registry,
        )
        self._queues: list[tuple[tuple[str, str], Callable[[], tuple[int, int]]]] = []
        self._caches: list[tuple[str, Callable[[], tuple[int, int]]]] = []
        registry.register(self)

    def watch_queue(self, model: str, lane: str, read: Callable[[], tuple[int, int]]) -> None:
        """Adds a lane's queue; ``read`` gives the items that wait and their cost."""
        self._queues.append(((model, lane), read))

    def watch_cache(self, model: str, read: Callable[[], tuple[int, int]]) -> None:
        """Adds a cache of queries; ``read`` gives its hits and misses so far."""
        self._caches.append((model, read))

    def describe(self) -> Sequence[Metric]:
        """Nothing in advance: the registry need not collect to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Queues and caches now."""
        items = GaugeMetricFamily("shortlist_lane_queued_items", "Items that wait in a lane.", labels=LABELS)
        cost = GaugeMetricFamily(
            "shortlist_lane_queued_cost",
            "What waits in a lane, by what its limit counts: tokens, or requests to rerank.",
            labels=LABELS,
        )
        for labels, read in self._queues:
            waiting = read()
            items.add_metric(labels, waiting[0])
            cost.add_metric(labels, waiting[1])
        hits = CounterMetricFamily(
            "shortlist_query_cache_hits", "Queries whose embedding was known.", labels=LABELS[:1]
        )
        misses = CounterMetricFamily(
            "shortlist_query_cache_misses", "Queries that had to be embedded.", labels=LABELS[:1]
        )
        for model, read in self._caches:
            counts = read()
            hits.add_metric([model], counts[0])
            misses.add_metric([model], counts[1])
        yield from (items, cost, hits, misses)


@dataclass(frozen=True, slots=True)
class Origin:
    """When work was submitted, in seconds of the monotonic clock, and in which span."""

    seconds: float
    span: SpanContext | None


class LaneWatch:
    """What one lane reports to."""

    def __init__(self, model: str, lane: str, *, metrics: ModelMetrics | None, tracer: Tracer | None) -> None:
        self._model = model
        self._lane = lane
        self._tracer = tracer
        self._metrics = metrics
        if metrics is not None:
            families = (metrics.wait_seconds, metrics.batch_seconds, metrics.batch_items, metrics.batch_tokens)
            self._wait, self._seconds, self._items, self._tokens = (one.labels(model, lane) for one in families)

    def watch_queue(self, read: Callable[[], tuple[int, int]]) -> None:
        """Hands in what reads the lane's queue: its items and their cost."""
        if self._metrics is not None:
            self._metrics.watch_queue(self._model, self._lane, read)

    def origin(self) -> Origin:
        """Where work that is submitted now comes from; called in the context of its request."""
        return Origin(time.monotonic(), None if self._tracer is None else tracing.current())

    def taken(self, origins: Sequence[Origin], began: float) -> None:
        """A batch of these was taken up at a time of the monotonic clock."""
        if self._metrics is not None:
            for origin in origins:
                self._wait.observe(began - origin.seconds)

    @contextmanager
    def running(self, origins: Sequence[Origin], futures: Sequence[Future[Any]]) -> Iterator[None]:
        """For the time in which a batch is run; when it is over, its futures are done."""
        began = time.monotonic()
        span = None
        if self._tracer is not None:
            span, token = tracing.begin_batch(
                self._tracer,
                [origin.span for origin in origins if origin.span is not None],
                {
                    "shortlist.model": self._model,
                    "shortlist.lane": self._lane,
                    "shortlist.batch.items": len(futures),
                },
            )
        tokens, failed = 0, True
        try:
            yield
            results = [future.result() for future in futures if future.exception() is None]
            tokens, failed = sum(getattr(result, "tokens", 0) for result in results), len(results) < len(futures)
            if self._metrics is not None:
                self._seconds.observe(time.monotonic() - began)
                self._items.observe(len(futures))
                self._tokens.observe(tokens)
        finally:
            if span is not None:
                tracing.end_batch(span, token, {"shortlist.batch.tokens": tokens}, failed=failed)
