"""Where the server reports what it does: one object that the composition root hands to the edge and the pipeline.

An ``Observer`` sends each fact to those of metrics, traces and log that are on; with none on, a report costs next to
nothing. Any thread; a ``CallWatch`` belongs to one call, a ``SearchWatch`` to one search.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token

from opentelemetry.context import Context
from opentelemetry.trace import Span, Tracer

from shortlist_server.domain import SearchReport
from shortlist_server.observe import tracing
from shortlist_server.observe.lanes import LaneWatch
from shortlist_server.observe.metrics import Metrics

slow_log = logging.getLogger("shortlist_server.slow")

SERVER_FAULTS = frozenset({"INTERNAL", "DATA_LOSS", "UNKNOWN"})
"""Status codes that mean a fault of the server, unlike a caller's mistake or a passing condition."""


class Observer:
    """Passes reports on; by default to nobody."""

    def __init__(
        self, *, metrics: Metrics | None = None, tracer: Tracer | None = None, slow_search_seconds: float = 0.0
    ) -> None:
        """``slow_search_seconds``: searches that take longer are logged with their stages; 0: none."""
        self.metrics = metrics
        self.tracer = tracer
        self.slow_search_seconds = slow_search_seconds

    def call(self, method: str, metadata: Mapping[str, str]) -> CallWatch:
        """Reports that a call begins."""
        span = None if self.tracer is None else tracing.begin_call(self.tracer, method, metadata)
        return CallWatch(self, method, span)

    def refused(self, setting: str) -> None:
        """Reports a call refused because of the limit of a setting."""
        if self.metrics is not None:
            self.metrics.call_refused(setting)

    def acknowledged(self, statuses: Sequence[str], tokens: int) -> None:
        """Reports acknowledged operations of an ingest stream, and the tokens embedded for them."""
        if self.metrics is not None:
            self.metrics.acknowledged(statuses, tokens)

    def lane(self, model: str, lane: str) -> LaneWatch | None:
        """What a model's lane reports to; None with neither metrics nor traces."""
        if self.metrics is None and self.tracer is None:
            return None
        return LaneWatch(model, lane, metrics=None if self.metrics is None else self.metrics.models, tracer=self.tracer)

    def watch_cache(self, model: str, read: Callable[[], tuple[int, int]]) -> None:
        """Adds a model's query cache; ``read`` returns its hits and misses."""
        if self.metrics is not None:
            self.metrics.models.watch_cache(model, read)

    def forget(self, model: str) -> None:
        """Removes the queues and the cache of a model that was unloaded."""
        if self.metrics is not None:
            self.metrics.models.forget(model)

    def search(self, collection: str) -> SearchWatch:
        """Reports that a search begins."""
        return SearchWatch(self, collection)


class CallWatch:
    """A running call."""

    def __init__(self, observer: Observer, method: str, span: Span | None) -> None:
        self._observer = observer
        self._method = method
        self._span = span
        self._started = time.perf_counter()

    def ended(self, code: str) -> None:
        """Reports that the call ended with a status code, such as "OK"."""
        if self._observer.metrics is not None:
            self._observer.metrics.call_ended(self._method, code, time.perf_counter() - self._started)
        if self._span is not None:
            tracing.end_call(self._span, code, failed=code in SERVER_FAULTS)


class SearchWatch:
    """A running search. Several threads may call ``stage``."""

    def __init__(self, observer: Observer, collection: str) -> None:
        self._observer = observer
        self._collection = collection
        self._span: Span | None = None
        self._context: Context | None = None
        self._token: Token[Context] | None = None
        if observer.tracer is not None:
            self._span, self._context, self._token = tracing.begin_search(observer.tracer, collection)

    def stage(self, name: str, seconds: float) -> None:
        """Reports that a stage has just ended."""
        if self._observer.metrics is not None:
            self._observer.metrics.stage_ended(name, seconds)
        if self._context is not None and self._observer.tracer is not None:
            tracing.add_stage(self._observer.tracer, self._context, name, seconds)

    def answered(self, report: SearchReport) -> None:
        """Reports that the search was answered."""
        if self._observer.metrics is not None:
            self._observer.metrics.search_answered(report)
        if self._span is not None:
            self._span.set_attribute("shortlist.generation", report.generation)
        if 0 < self._observer.slow_search_seconds < report.total_seconds:
            slow_log.warning("slow search", extra={"fields": _account(self._collection, report)})

    def ended(self) -> None:
        """Reports that the search is over, answered or not."""
        if self._span is not None and self._token is not None:
            tracing.end_search(self._span, self._token)


def _account(collection: str, report: SearchReport) -> dict[str, object]:
    """What a search spent its time on, without the query."""
    return {
        "collection": collection,
        "generation": report.generation,
        "total_ms": round(report.total_seconds * 1000, 1),
        **{f"{stage}_ms": round(seconds * 1000, 1) for stage, seconds in report.stage_seconds.items()},
        "dense_strategy": "none" if report.dense_strategy is None else report.dense_strategy.value,
        "filter_matches": "none" if report.filter_matches is None else report.filter_matches,
        "query_tokens": report.query_tokens,
        "reranked": ",".join(f"{stage.model.name}:{stage.reranked}" for stage in report.rerank_stages) or "no",
        "degraded": ",".join(degradation.kind.value for degradation in report.degradations) or "no",
    }
