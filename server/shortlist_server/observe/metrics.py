"""Prometheus metrics: names, units and help texts in one place.

Each ``Metrics`` has its own registry, which keeps servers in one process apart. Events are counted as they happen, from
any thread; sizes and disk space are read when the page is. Labels have few values: methods, status codes, stages and
collections, and nothing that a caller can make up. A call with an unknown method never gets here.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shortlist_server.domain import CollectionInfo, CollectionRecall, RecallEstimate, SearchReport
from shortlist_server.observe.generations import CollectionGenerations, generation_metrics
from shortlist_server.observe.lanes import ModelMetrics

RPC_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._rpc_seconds = Histogram(
            "shortlist_rpc_seconds",
            "Time of calls from arrival to end; a stream counts when it ends.",
            ["method", "code"],
            buckets=RPC_SECONDS,
            registry=self.registry,
        )
        self._refused = Counter(
            "shortlist_rpc_refused",
            "Calls refused because a limit was reached, by the setting of the limit.",
            ["setting"],
            registry=self.registry,
        )
        self._stage_seconds = Histogram(
            "shortlist_search_stage_seconds",
            "Time of each stage of a search.",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        self._searches = Counter(
            "shortlist_searches",
            "Searches answered, by how the dense index was searched.",
            ["strategy"],
            registry=self.registry,
        )
        self._degraded = Counter(
            "shortlist_searches_degraded",
            "Answers with less than the search asked for, by what was lost.",
            ["kind"],
            registry=self.registry,
        )
        self._query_tokens = Counter(
            "shortlist_query_tokens", "Tokens of queries that embedders read.", registry=self.registry
        )
        self._rerank_tokens = Counter("shortlist_rerank_tokens", "Tokens that rerankers read.", registry=self.registry)
        self._operations = Counter(
            "shortlist_ingest_operations",
            "Acknowledged operations of ingest streams, by status.",
            ["status"],
            registry=self.registry,
        )
        self._passage_tokens = Counter(
            "shortlist_ingest_tokens", "Tokens of passages embedded for ingest streams.", registry=self.registry
        )
        self._stages = {
            stage: self._stage_seconds.labels(stage)
            for stage in ("embed", "filter", "lexical", "dense", "fuse", "fetch", "rerank", "group")
        }
        self._calls: dict[tuple[str, str], Histogram] = {}
        self.models = ModelMetrics(self.registry)

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """Counts a call that ended with a status code, such as "OK"."""
        found = self._calls.get((method, code))
        if found is None:
            found = self._calls[method, code] = self._rpc_seconds.labels(method, code)
        found.observe(seconds)

    def call_refused(self, setting: str) -> None:
        """Counts a call refused because of the limit of a setting."""
        self._refused.labels(setting).inc()

    def stage_ended(self, stage: str, seconds: float) -> None:
        """Adds the time of a stage of a search."""
        self._stages[stage].observe(seconds)

    def search_answered(self, report: SearchReport) -> None:
        """Counts an answered search."""
        strategy = report.dense_strategy
        self._searches.labels("none" if strategy is None else strategy.value).inc()
        for degradation in report.degradations:
            self._degraded.labels(degradation.kind.value).inc()
        self._query_tokens.inc(report.query_tokens)
        self._rerank_tokens.inc(sum(stage.tokens for stage in report.rerank_stages))

    def acknowledged(self, statuses: Sequence[str], tokens: int) -> None:
        """Counts acknowledged operations of an ingest stream by status, and the tokens embedded for them."""
        for status in statuses:
            self._operations.labels(status).inc()
        self._passage_tokens.inc(tokens)

    def watch_state(self, state: StateCollector) -> None:
        """Adds a collector that is read whenever the page is."""
        self.registry.register(state)

    def serve(self, address: str) -> MetricsPage:
        """Serves the page at HOST:PORT in its own thread. Raises ``OSError`` or ``ValueError``."""
        host, _, port = address.rpartition(":")
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry=self.registry)
        return MetricsPage(server, thread)


class MetricsPage:
    """The running metrics page."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread

    @property
    def port(self) -> int:
        """The port of the page."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stops serving the page."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionCounts:
    """How many collections exist, are open, and are known to be damaged."""

    present: int
    open: int
    damaged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """What the builds of a collection's segments did since the server started."""

    collection: str
    flushes: int
    merges: int
    build_failures: int
    waited_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationCounts:
    """Operations that run or wait now, and those that ended since the start, by kind and state."""

    unfinished: int
    ended: Mapping[tuple[str, str], int]


class StateCollector(Collector):
    """Sizes of collections, running calls and disk space, read anew for every page."""

    def __init__(
        self,
        *,
        counts: Callable[[], CollectionCounts],
        collections: Callable[[], Sequence[CollectionInfo]],
        maintenance: Callable[[], Sequence[Maintenance]],
        recall: Callable[[], Sequence[CollectionRecall]],
        running: Callable[[], dict[str, int]],
        operations: Callable[[], OperationCounts],
        generations: Callable[[], Sequence[CollectionGenerations]],
        data_dir: Path,
    ) -> None:
        """The page's thread calls these functions; ``running`` returns the number of running calls by kind."""
        self._counts = counts
        self._collections = collections
        self._maintenance = maintenance
        self._recall = recall
        self._running = running
        self._operations = operations
        self._generations = generations
        self._data_dir = data_dir

    def describe(self) -> Sequence[Metric]:
        """Nothing: with an empty description, registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The present gauges."""
        running = GaugeMetricFamily("shortlist_rpcs_running", "Running calls, by kind.", labels=["kind"])
        for kind, count in self._running().items():
            running.add_metric([kind], count)
        yield running
        operations = self._operations()
        yield GaugeMetricFamily(
            "shortlist_operations_unfinished", "Operations that run or wait.", value=operations.unfinished
        )
        ended = CounterMetricFamily(
            "shortlist_operations_ended", "Operations that ended since the start.", labels=["kind", "state"]
        )
        for labels, count in operations.ended.items():
            ended.add_metric(labels, count)
        yield ended
        disk = shutil.disk_usage(self._data_dir)
        yield GaugeMetricFamily("shortlist_disk_free_bytes", "Free space for the data folder.", value=disk.free)
        yield GaugeMetricFamily("shortlist_disk_total_bytes", "Size of the data folder's disk.", value=disk.total)
        counts = self._counts()
        yield GaugeMetricFamily("shortlist_collections", "Collections in the data folder.", value=counts.present)
        yield GaugeMetricFamily("shortlist_collections_open", "Collections that are open.", value=counts.open)
        yield GaugeMetricFamily(
            "shortlist_collections_damaged",
            "Collections that could not be opened; the log says why.",
            value=counts.damaged,
        )
        yield from _of_collections(self._collections())
        yield from _of_maintenance(self._maintenance())
        yield from _of_recall(self._recall())
        yield from generation_metrics(self._generations())


def _of_maintenance(collections: Sequence[Maintenance]) -> Iterator[Metric]:
    counters: list[tuple[str, str, Callable[[Maintenance], float]]] = [
        ("flushes", "Flushes of the growing segment into a segment since the start.", lambda m: m.flushes),
        ("merges", "Segments built from other segments, or anew, since the start.", lambda m: m.merges),
        ("build_failures", "Builds of segments that failed since the start.", lambda m: m.build_failures),
        (
            "commit_wait_seconds",
            "Time commits were held back because the growing segment outgrew the builder, since the start.",
            lambda m: m.waited_seconds,
        ),
    ]
    for name, help, read in counters:
        counter = CounterMetricFamily(f"shortlist_collection_{name}", help, labels=["collection"])
        for collection in collections:
            counter.add_metric([collection.collection], read(collection))
        yield counter


def _of_recall(collections: Sequence[CollectionRecall]) -> Iterator[Metric]:
    target = GaugeMetricFamily(
        "shortlist_collection_recall_target_ratio", "Recall that searches should reach.", labels=["collection"]
    )
    estimates: list[tuple[list[str], RecallEstimate]] = []
    for one in collections:
        target.add_metric([one.collection], one.target)
        estimates += [([one.collection, "false"], one.unfiltered), ([one.collection, "true"], one.filtered)]
    yield target
    gauges: list[tuple[str, str, Callable[[RecallEstimate], float | None]]] = [
        ("recall_ratio", "Estimated recall@10 of searches through a graph.", lambda e: e.recall),
        ("recall_lower_ratio", "Lower end of the 95 % interval of that recall.", lambda e: e.lower),
        ("recall_upper_ratio", "Upper end of the 95 % interval of that recall.", lambda e: e.upper),
        ("ef", "ef of searches through a graph, raised to meet the recall target.", lambda e: e.ef),
    ]
    names = ["collection", "filtered"]
    for name, help, read in gauges:
        gauge = GaugeMetricFamily(f"shortlist_collection_{name}", help, labels=names)
        for labels, estimate in estimates:
            value = read(estimate)
            if value is not None:
                gauge.add_metric(labels, value)
        yield gauge
    checks = CounterMetricFamily(
        "shortlist_collection_recall_checks", "Searches checked against an exact one, since the start.", labels=names
    )
    for labels, estimate in estimates:
        checks.add_metric(labels, estimate.check_count)
    yield checks


def _of_collections(collections: Sequence[CollectionInfo]) -> Iterator[Metric]:
    gauges: list[tuple[str, str, Callable[[CollectionInfo], float]]] = [
        ("documents", "Live documents.", lambda c: c.document_count),
        ("passages", "Live passages.", lambda c: c.passage_count),
        (
            "growing_passages",
            "Live passages in no segment yet, which every search scans.",
            lambda c: c.passage_count - c.segment_passage_count,
        ),
        ("segments", "Segments of the dense index.", lambda c: c.segment_count),
        ("disk_bytes", "Bytes on disk.", lambda c: c.disk_bytes),
        ("sequence", "Sequence of the last commit.", lambda c: c.sequence),
    ]
    for name, help, read in gauges:
        gauge = GaugeMetricFamily(f"shortlist_collection_{name}", help, labels=["collection"])
        for collection in collections:
            gauge.add_metric([collection.name], read(collection))
        yield gauge
