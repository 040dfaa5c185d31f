"""What the models' lanes report: how long work waits, what batches consist of, and how often the cache knows a query.

A lane has the labels ``model`` and ``lane`` (query, passage or rerank); its series are looked up once, when it is made.
Queues and caches are read when the metrics page is. With tracing, a batch has its own span, linked to the spans that
submitted its items: it serves several requests and can be the child of only one. Any thread.
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
            "Time that items waited in a lane for their batch, including items dropped then.",
            LABELS,
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "shortlist_lane_batch_seconds",
            "Time that the model took for a batch.",
            LABELS,
            buckets=BATCH_SECONDS,
            registry=registry,
        )
        self.batch_items = Histogram(
            "shortlist_lane_batch_items",
            "Items in a batch: queries, passages or rerank requests.",
            LABELS,
            buckets=BATCH_ITEMS,
            registry=registry,
        )
        self.batch_tokens = Histogram(
            "shortlist_lane_batch_tokens",
            "Tokens that the model read in a batch.",
            LABELS,
            buckets=BATCH_TOKENS,
            registry=registry,
        )
        self._queues: dict[tuple[str, str], Callable[[], tuple[int, int]]] = {}
        self._caches: dict[str, Callable[[], tuple[int, int]]] = {}
        registry.register(self)

    def watch_queue(self, model: str, lane: str, read: Callable[[], tuple[int, int]]) -> None:
        """Adds a lane's queue; ``read`` returns the number of waiting items and their cost."""
        self._queues = {**self._queues, (model, lane): read}

    def watch_cache(self, model: str, read: Callable[[], tuple[int, int]]) -> None:
        """Adds a query cache; ``read`` returns its hits and misses so far."""
        self._caches = {**self._caches, model: read}

    def forget(self, model: str) -> None:
        """Removes the queues and the cache of a model that was unloaded; what was counted stays."""
        self._queues = {labels: read for labels, read in self._queues.items() if labels[0] != model}
        self._caches = {name: read for name, read in self._caches.items() if name != model}

    def describe(self) -> Sequence[Metric]:
        """Nothing: with an empty description, registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The present queues and caches."""
        items = GaugeMetricFamily("shortlist_lane_queued_items", "Items waiting in a lane.", labels=LABELS)
        cost = GaugeMetricFamily(
            "shortlist_lane_queued_cost",
            "Cost of the items waiting in a lane, in what its limit counts: tokens or rerank requests.",
            labels=LABELS,
        )
        for labels, read in self._queues.items():
            waiting = read()
            items.add_metric(labels, waiting[0])
            cost.add_metric(labels, waiting[1])
        hits = CounterMetricFamily(
            "shortlist_query_cache_hits", "Queries whose embedding was in the cache.", labels=LABELS[:1]
        )
        misses = CounterMetricFamily(
            "shortlist_query_cache_misses", "Queries that had to be embedded.", labels=LABELS[:1]
        )
        for model, read in self._caches.items():
            counts = read()
            hits.add_metric([model], counts[0])
            misses.add_metric([model], counts[1])
        yield from (items, cost, hits, misses)


@dataclass(frozen=True, slots=True)
class Origin:
    """When work was submitted, in seconds of the monotonic clock, and the span that submitted it."""

    seconds: float
    span: SpanContext | None


class LaneWatch:
    """Takes the reports of one lane."""

    def __init__(self, model: str, lane: str, *, metrics: ModelMetrics | None, tracer: Tracer | None) -> None:
        self._model = model
        self._lane = lane
        self._tracer = tracer
        self._metrics = metrics
        if metrics is not None:
            families = (metrics.wait_seconds, metrics.batch_seconds, metrics.batch_items, metrics.batch_tokens)
            self._wait, self._seconds, self._items, self._tokens = (one.labels(model, lane) for one in families)

    def watch_queue(self, read: Callable[[], tuple[int, int]]) -> None:
        """Adds the lane's queue; ``read`` returns the number of waiting items and their cost."""
        if self._metrics is not None:
            self._metrics.watch_queue(self._model, self._lane, read)

    def origin(self) -> Origin:
        """The origin of work that is submitted now; call it in the context of its request."""
        return Origin(time.monotonic(), None if self._tracer is None else tracing.current())

    def taken(self, origins: Sequence[Origin], began: float) -> None:
        """Reports that a batch left the queue when the monotonic clock showed ``began``."""
        if self._metrics is not None:
            for origin in origins:
                self._wait.observe(began - origin.seconds)

    @contextmanager
    def running(self, origins: Sequence[Origin], futures: Sequence[Future[Any]]) -> Iterator[None]:
        """Reports the batch that runs within the block; at the end of the block its futures are done."""
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
