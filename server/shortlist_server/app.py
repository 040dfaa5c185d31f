"""The composition root: builds every part from one ``Config``, runs the server, and takes it down in order.

Nothing else constructs collaborators. ``Server`` belongs to the event loop that starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import grpc.aio
from grpc_health.v1 import health
from opentelemetry.trace import Tracer
from threadpoolctl import threadpool_limits

from shortlist.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from shortlist_server import preflight
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, ShortlistError, Unavailable
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.inference.catalog import load_models
from shortlist_server.inference.loading import INGEST_NICENESS
from shortlist_server.inference.scheduler import lower_priority
from shortlist_server.keys import KeyRing
from shortlist_server.observe import logs, tracing
from shortlist_server.observe.metrics import CollectionCounts, Maintenance, Metrics, MetricsPage, StateCollector
from shortlist_server.observe.observer import Observer
from shortlist_server.pipeline.evaluate import Evaluator
from shortlist_server.pipeline.ingester import Ingester
from shortlist_server.pipeline.recall import RecallMonitor
from shortlist_server.pipeline.search import Searcher
from shortlist_server.rpc import transport
from shortlist_server.rpc.admin_service import AdminServicer, ServerInfo
from shortlist_server.rpc.authorization import AuthorizationInterceptor
from shortlist_server.rpc.collection_service import CollectionServicer
from shortlist_server.rpc.document_service import DocumentServicer
from shortlist_server.rpc.hangup import hang_up
from shortlist_server.rpc.health import HealthKeeper, HealthServicer, add_health
from shortlist_server.rpc.health_calls import HealthInterceptor
from shortlist_server.rpc.holding import watch_calls
from shortlist_server.rpc.interceptors import CallInterceptor
from shortlist_server.rpc.limits import LimitInterceptor
from shortlist_server.rpc.reflection import add_reflection
from shortlist_server.rpc.requests import RequestReader
from shortlist_server.rpc.search_service import SearchServicer
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.disk import descriptors
from shortlist_server.storage.disk.data_folder import backup_folder
from shortlist_server.storage.store import EmbeddedStore, open_store

logger = logging.getLogger(__name__)

SERVICES = (
    search_service_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
    document_service_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name,
    collection_service_pb2.DESCRIPTOR.services_by_name["CollectionService"].full_name,
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)

SEARCH_THREADS = 8
"""Threads for the blocking parts of searches; they spend their time in SQLite, hnswlib and numpy, outside the GIL."""

SWITCH_SECONDS = 0.0005
"""Longest turn of a thread while others wait for the interpreter; a tenth of Python's default. A search changes threads
several times, and while ingest computes it waits a turn each time."""

WORK_THREADS = 4
"""Threads for everything else that blocks, so that ingest never takes a search's thread."""

LONG_THREADS = 2
"""Threads for verifying, backing up and restoring, each of which may hold one for minutes; more calls wait."""

METRIC_COLLECTIONS = 200
"""Collections that have metrics of their own, each some 25 series; thousands would burden whoever reads the page."""

QUIET_THREADS = 2
"""Threads for evaluations, whose searches embed and ask the lexical index side by side, and for checks of recall."""


class Server:
    """A Shortlist server."""

    def __init__(self, config: Config, *, tracer: Tracer | None = None) -> None:
        """Nothing starts yet. ``tracer`` None: traces are sent when ``config.tracing`` says so."""
        self._config = config
        self._tracer = tracer
        self._search_threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search")
        self._work_threads = ThreadPoolExecutor(WORK_THREADS, thread_name_prefix="work")
        self._long_threads = ThreadPoolExecutor(LONG_THREADS, thread_name_prefix="long")
        self._quiet_threads = ThreadPoolExecutor(
            QUIET_THREADS, thread_name_prefix="quiet", initializer=lower_priority, initargs=(INGEST_NICENESS,)
        )
        self._models: ModelCatalog | None = None
        self._store: EmbeddedStore | None = None
        self._ingester: Ingester | None = None
        self._calls: CallInterceptor | None = None
        self._health: HealthServicer | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._metrics_page: MetricsPage | None = None
        self._end_tracing: Callable[[], None] | None = None

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics page; None where there is none."""
        return None if self._metrics_page is None else self._metrics_page.port

    async def start(self) -> int:
        """Checks what costs nothing, opens the data folder, loads models and listens; then searches are answered.

        Returns:
            The port that is listened on.

        Raises:
            InvalidArgument: a setting is wrong, or others could reach the server without a key.
            ModelNotFound: a model's files are not there; the message says what to do.
            Unavailable: an address cannot be listened on, another process has the data folder, or the limit of open
                files is too low.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        descriptors.check_limit()
        watch_calls(loop)
        keys = key_ring(config)
        transport.check_exposure(config, has_keys=keys is not None)
        observer, self._end_tracing = make_observer(config, self._tracer)
        await loop.run_in_executor(self._work_threads, partial(preflight.check, config, keeps_collections=True))
        store = self._store = await loop.run_in_executor(self._work_threads, open_store, config)
        if not await loop.run_in_executor(self._work_threads, store.open_all):
            store.survey()
        models = self._models = await loop.run_in_executor(self._work_threads, load_models, config, observer)
        ingester = self._ingester = Ingester(
            store, models, self._work_threads, max_document_tokens=config.max_document_tokens
        )
        limits = LimitInterceptor(config)
        recall = RecallMonitor(
            self._quiet_threads,
            interval_seconds=config.recall_check_interval_seconds,
            busy=lambda: limits.saturated,
        )
        checks_recall = config.recall_check_interval_seconds > 0
        searcher = Searcher(store, models, self._search_threads, observer, recall if checks_recall else None)
        calls = self._calls = CallInterceptor(
            max_concurrent=config.max_concurrent_rpcs,
            max_seconds=config.max_deadline_seconds,
            max_write_seconds=config.stream_idle_seconds,
            max_message_bytes=config.max_message_bytes,
            max_answer_seconds=config.max_answer_seconds,
            reader=RequestReader(config),
            observer=observer,
        )
        server = grpc.aio.server(
            interceptors=[HealthInterceptor(config), calls, AuthorizationInterceptor(keys), limits],
            options=transport.options(config),
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(
            SearchServicer(searcher, config, limits.queue, limits.waits), server
        )
        document_service_pb2_grpc.add_DocumentServiceServicer_to_server(
            DocumentServicer(store, ingester, self._work_threads, config, observer), server
        )
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(
            CollectionServicer(store, models, self._work_threads, config), server
        )
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminServicer(
                store,
                models,
                self._work_threads,
                self._long_threads,
                backup_folder(config),
                _server_info(),
                # Not observed, nor checked for recall: that is of what users search.
                Evaluator(store, Searcher(store, models, self._quiet_threads, Observer()), self._quiet_threads),
                recall,
                config,
            ),
            server,
        )
        self._health = HealthServicer()
        add_health(self._health, server)
        if config.reflection:
            add_reflection((*SERVICES, health.SERVICE_NAME), server)
        port = self._port = transport.listen(server, config)
        self._serve_metrics(observer, store, limits, recall)
        keeper = HealthKeeper(
            self._health,
            models,
            store,
            self._work_threads,
            data_dir=config.data_dir,
            min_free_bytes=config.min_free_disk_bytes,
            interval_seconds=config.health_interval_seconds,
        )
        await keeper.check()
        self._server = server
        await server.start()
        self._keeping = asyncio.create_task(keeper.keep())
        if checks_recall:
            self._checking = asyncio.create_task(recall.keep())
        return port

    def _serve_metrics(
        self, observer: Observer, store: EmbeddedStore, limits: LimitInterceptor, recall: RecallMonitor
    ) -> None:
        if observer.metrics is None:
            return
        observer.metrics.watch_state(
            StateCollector(
                counts=lambda: _counts(store),
                collections=lambda: [collection.info() for collection in _shown(store)],
                maintenance=lambda: [_maintenance(collection) for collection in _shown(store)],
                recall=lambda: [recall.of(collection) for collection in _shown(store)],
                running=lambda: {
                    "search": limits.searches.taken,
                    "ingest": limits.streams.taken,
                    "other": limits.calls.taken,
                },
                data_dir=self._config.data_dir,
            )
        )
        self._metrics_page = serve_metrics(observer.metrics, self._config)

    async def stop(self, grace_seconds: float) -> None:
        """Stops taking calls, lets running ones finish for ``grace_seconds``, and closes everything. Idempotent.

        Health answers NOT_SERVING first, for ``config.drain_delay_seconds`` before calls are refused, so that those who
        balance load can look elsewhere; ingest streams are told to resume.
        """
        loop = asyncio.get_running_loop()
        for task in (self._keeping, self._checking):
            if task is not None:
                task.cancel()
        if self._health is not None:
            await self._health.end()
        if self._server is not None:
            await asyncio.sleep(self._config.drain_delay_seconds)
        if self._ingester is not None:
            self._ingester.drain()
        if self._health is not None:
            self._health.release()
        if self._server is not None:
            begin = loop.time()
            if self._calls is not None:
                await self._calls.drain(grace_seconds)
            await hang_up(self._config.listen, self._port)
            await self._server.stop(max(0.0, grace_seconds - (loop.time() - begin)))
            self._server = None
        for close in (
            None if self._metrics_page is None else self._metrics_page.close,
            None if self._models is None else self._models.close,
            None if self._store is None else self._store.close,
            self._end_tracing,
        ):
            if close is not None:
                await loop.run_in_executor(None, close)
        self._models = self._store = self._metrics_page = self._end_tracing = None
        self._search_threads.shutdown()
        self._work_threads.shutdown()
        self._long_threads.shutdown()
        self._quiet_threads.shutdown()


def make_observer(config: Config, tracer: Tracer | None = None) -> tuple[Observer, Callable[[], None] | None]:
    """The observer that the settings ask for, and what ends its tracing. ``tracer``: in place of the settings' own.

    Raises:
        InvalidArgument: traces are to be sent, and the libraries for it are not installed.
    """
    end = None
    if tracer is None and config.tracing:
        tracer, end = tracing.start_exporting(version("shortlist"))
    metrics = Metrics() if config.metrics_listen else None
    return Observer(metrics=metrics, tracer=tracer, slow_search_seconds=config.slow_search_seconds), end


def serve_metrics(metrics: Metrics, config: Config) -> MetricsPage:
    """Serves the page of metrics. Raises ``Unavailable``."""
    try:
        return metrics.serve(config.metrics_listen)
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot serve metrics on {config.metrics_listen}: {error}") from error


class Running(Protocol):
    """What ``serve_until_stopped`` starts and stops: a server, or a worker."""

    async def start(self) -> int:
        """Starts; returns the port."""

    async def stop(self, grace_seconds: float) -> None:
        """Stops."""


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT; a second signal exits at once.

    Prints ``shortlist serving on HOST:PORT`` when it is ready.

    Raises:
        SystemExit: the server could not start; the message says why and what to do.
    """
    serve_until_stopped(Server, config)


def serve_until_stopped(make: Callable[[Config], Running], config: Config, what: str = "server") -> None:
    """Configures logging, and runs what ``make`` makes, a ``what``; see ``run``."""
    try:
        logs.configure(config.log_level, config.log_format)
    except ValueError as error:
        sys.exit(f"shortlist: the {what} cannot start: {error}")
    try:
        sys.setswitchinterval(SWITCH_SECONDS)
        descriptors.raise_limit()
        # OpenBLAS's threads wait for each other, on cores that ingest may hold; searches run side by side as it is.
        with threadpool_limits(limits=1, user_api="blas"):
            asyncio.run(_serve(make, config))
    except ShortlistError as error:
        sys.exit(f"shortlist: the {what} cannot start: {error.message}")


async def _serve(make: Callable[[Config], Running], config: Config) -> None:
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    server = make(config)
    starting = asyncio.create_task(server.start())
    interrupted = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            port = starting.result()
            host = config.listen.rpartition(":")[0]
            print(f"shortlist serving on {host}:{port}", flush=True)  # noqa: T201
            await interrupted
            logger.info("stopping")
        else:
            # Loading runs in a thread and cannot be interrupted; what it opens is closed below.
            with contextlib.suppress(ShortlistError):
                await starting
    finally:
        interrupted.cancel()
        await server.stop(config.drain_seconds)


def _server_info() -> ServerInfo:
    now = time.time()
    return ServerInfo(version=version("shortlist"), start_time_seconds=now, startup_seconds=now - _process_start(now))


def _process_start(now: float) -> float:
    """When this process began, in seconds since the epoch; ``now`` where the system does not tell."""
    try:
        # Field 22, counted after the parenthesised name: clock ticks from boot to the start (proc(5)).
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return now - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return now


def key_ring(config: Config) -> KeyRing | None:
    """The keys to accept; None where none are given, and every caller may do everything."""
    file = Path(config.api_keys_file) if config.api_keys_file else None
    keys = KeyRing(config.api_keys, file)
    if file is not None and not len(keys):
        raise InvalidArgument(f"the file of API keys has none: {file}", field="api_keys_file")
    if len(keys) and not config.tls_certificate and not transport.is_loopback(config.listen):
        logger.warning("API keys travel unencrypted: give --tls-certificate, or let a proxy in front of it speak TLS")
    return keys if len(keys) else None


def _counts(store: EmbeddedStore) -> CollectionCounts:
    names, known = store.names(), store.known()
    return CollectionCounts(
        present=len(names),
        open=sum(collection.is_open for collection in known),
        damaged=sum(bool(collection.problem) for collection in known),
    )


def _shown(store: EmbeddedStore) -> list[EmbeddedCollection]:
    """The collections that have metrics of their own: those used last, of which something is known."""
    shown = []
    for collection in store.known()[:METRIC_COLLECTIONS]:
        # One that is damaged, or dropped meanwhile, has none.
        with contextlib.suppress(ShortlistError):
            collection.info()
            shown.append(collection)
    return shown


def _maintenance(collection: EmbeddedCollection) -> Maintenance:
    stats = collection.stats()
    return Maintenance(
        collection=collection.name,
        seals=stats.seals,
        merges=stats.merges,
        build_failures=stats.build_failures,
        waited_seconds=stats.waited_seconds,
    )
