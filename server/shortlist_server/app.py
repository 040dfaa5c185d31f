"""The composition root: builds every part of a server from one ``Config``, and takes it down in order.

Nothing else constructs collaborators. ``Server`` belongs to the event loop that starts it; ``process.py`` runs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import grpc.aio
from grpc_health.v1 import health
from opentelemetry.trace import Tracer

from shortlist.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    operation_service_pb2,
    operation_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
)
from shortlist_server import interpreter, preflight, process, threads
from shortlist_server.config import Config
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.inference.catalog import load_models
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.precedence import Precedence
from shortlist_server.observe.metrics import MetricsPage, OperationCounts, StateCollector
from shortlist_server.observe.observer import Observer
from shortlist_server.operations.registry import OperationRegistry
from shortlist_server.pipeline.collection_state import CollectionState
from shortlist_server.pipeline.compare import Comparer
from shortlist_server.pipeline.evaluate import Evaluator
from shortlist_server.pipeline.ingester import Ingester
from shortlist_server.pipeline.recall import RecallMonitor
from shortlist_server.pipeline.recent_queries import RecentQueries
from shortlist_server.pipeline.reindex.estimate import Estimator, Footprint
from shortlist_server.pipeline.reindex.reindexer import Reindexer
from shortlist_server.pipeline.reindex.room import Room
from shortlist_server.pipeline.search import Searcher
from shortlist_server.pipeline.setbacks import Setbacks
from shortlist_server.publishing.opening import open_publisher
from shortlist_server.remote.catalog import find_models
from shortlist_server.rpc import transport
from shortlist_server.rpc.admin_service import AdminServicer, ServerInfo
from shortlist_server.rpc.authorization import AuthorizationInterceptor
from shortlist_server.rpc.collection_service import CollectionServicer
from shortlist_server.rpc.convert.operations import result_bytes
from shortlist_server.rpc.document_service import DocumentServicer
from shortlist_server.rpc.generation_works import GenerationWorks, interrupted
from shortlist_server.rpc.hangup import hang_up
from shortlist_server.rpc.health import HealthKeeper, HealthServicer, add_health
from shortlist_server.rpc.health_calls import HealthInterceptor
from shortlist_server.rpc.holding import watch_calls
from shortlist_server.rpc.interceptors import CallInterceptor
from shortlist_server.rpc.limits import LimitInterceptor
from shortlist_server.rpc.model_calls import ModelCalls
from shortlist_server.rpc.operation_service import OperationServicer
from shortlist_server.rpc.reflection import add_reflection
from shortlist_server.rpc.request_ids import RequestIdInterceptor
from shortlist_server.rpc.requests import RequestReader
from shortlist_server.rpc.search_service import SearchServicer
from shortlist_server.rpc.unknown_methods import UnknownMethodInterceptor
from shortlist_server.rpc.works import Works
from shortlist_server.storage import footprint
from shortlist_server.storage.base import Store
from shortlist_server.storage.disk import descriptors
from shortlist_server.storage.disk.data_folder import backup_folder
from shortlist_server.storage.store import open_store
from shortlist_server.threads import ThreadPools

SERVICES = (
    search_service_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name,
    document_service_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name,
    collection_service_pb2.DESCRIPTOR.services_by_name["CollectionService"].full_name,
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
    operation_service_pb2.DESCRIPTOR.services_by_name["OperationService"].full_name,
)


class Server:
    """A Shortlist server."""

    def __init__(self, config: Config, *, tracer: Tracer | None = None) -> None:
        """Starts nothing yet. ``tracer`` replaces the one that ``config.tracing`` asks for."""
        self._config = config
        self._tracer = tracer
        self._threads = ThreadPools()
        self._models: LoadedModels | None = None
        self._store: Store | None = None
        self._ingester: Ingester | None = None
        self._reindexer: Reindexer | None = None
        self._calls: CallInterceptor | None = None
        self._request_ids: RequestIdInterceptor | None = None
        self._operations: OperationRegistry | None = None
        self._health: HealthServicer | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._metrics_page: MetricsPage | None = None
        self._end_tracing: Callable[[], None] | None = None

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics page; None without one."""
        return None if self._metrics_page is None else self._metrics_page.port

    async def start(self) -> int:
        """Makes the cheap checks, opens the data folder, loads the models and listens.

        Returns:
            The port. When this returns, the server answers searches.

        Raises:
            InvalidArgument: a setting is wrong, or others could reach the server without a key.
            ModelNotFound: a model's files are missing; the message says what to do.
            Unavailable: the server cannot listen on an address, another process has the data folder, or the limit of
                open files is too low.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        descriptors.check_limit()
        watch_calls(loop)
        interpreter.give_way_to(loop)
        transport.keep_library()
        keys = process.key_ring(config)
        transport.check_exposure(config, has_keys=keys is not None)
        observer, self._end_tracing = process.make_observer(config, self._tracer)
        await loop.run_in_executor(self._threads.work, partial(preflight.check, config, keeps_collections=True))
        store = self._store = await loop.run_in_executor(self._threads.work, open_store, config)
        if not await loop.run_in_executor(self._threads.work, store.open_all):
            store.survey()
        precedence = Precedence()
        provide_models = find_models if config.workers else partial(load_models, precedence=precedence)
        models = self._models = await loop.run_in_executor(self._threads.work, provide_models, config, observer)
        publisher = await loop.run_in_executor(
            self._threads.work, open_publisher, config, store, models, observer, precedence
        )
        setbacks = Setbacks()
        ingester = self._ingester = Ingester(
            store,
            models,
            self._threads.work,
            setbacks,
            aside_threads=self._threads.aside,
            max_document_tokens=config.max_document_tokens,
        )
        reindexer = self._reindexer = self._make_reindexer(store, models, setbacks)
        limits = LimitInterceptor(config)
        recall = RecallMonitor(
            self._threads.background,
            interval_seconds=config.recall_check_interval_seconds,
            busy=lambda: limits.saturated,
        )
        checks_recall = config.recall_check_interval_seconds > 0
        recent = RecentQueries(config.sampled_queries)
        searcher = Searcher(store, models, self._threads.search, observer, recall if checks_recall else None, recent)
        # Neither observed nor checked for recall: those figures are about users' searches.
        measuring = Searcher(store, models, self._threads.background, Observer())
        evaluator = Evaluator(store, measuring, self._threads.background)
        turns_to_measure = asyncio.Semaphore(1)
        calls = self._calls = CallInterceptor(
            max_concurrent=config.max_concurrent_rpcs,
            max_seconds=config.max_deadline_seconds,
            max_write_seconds=config.stream_idle_seconds,
            max_message_bytes=config.max_message_bytes,
            max_answer_seconds=config.max_answer_seconds,
            reader=RequestReader(config),
            observer=observer,
        )
        operations = self._operations = OperationRegistry(most=config.max_operations, size_of=result_bytes)
        generation_works = GenerationWorks(
            operations,
            reindexer,
            Comparer(store, measuring, self._threads.background),
            turns_to_measure,
            store,
            self._threads.work,
        )
        request_ids = self._request_ids = RequestIdInterceptor(config)
        # Kept at once, so that `stop` ends it even if the start fails below.
        server = self._server = grpc.aio.server(
            interceptors=[
                UnknownMethodInterceptor(),
                HealthInterceptor(config),
                calls,
                AuthorizationInterceptor(keys),
                limits,
                request_ids,
            ],
            options=transport.options(config),
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(
            SearchServicer(searcher, config, limits.queue, limits.waits), server
        )
        document_service_pb2_grpc.add_DocumentServiceServicer_to_server(
            DocumentServicer(store, ingester, self._threads.work, config, observer), server
        )
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(
            CollectionServicer(store, models, self._threads.work, config, reindexer, generation_works, recent), server
        )
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminServicer(
                store,
                models,
                self._threads.work,
                backup_folder(config),
                _server_info(),
                recall,
                Works(
                    store,
                    models,
                    self._threads.long,
                    threads.LONG,
                    backup_folder(config),
                    evaluator,
                    turns_to_measure,
                    generation_works.go_on_with,
                    config,
                ),
                operations,
                ModelCalls(
                    publisher,
                    operations,
                    self._threads.work,
                    self._threads.loading,
                    reindexer.look,
                ),
            ),
            server,
        )
        operation_service_pb2_grpc.add_OperationServiceServicer_to_server(
            OperationServicer(operations, limits.large_answer), server
        )
        self._health = HealthServicer()
        add_health(self._health, server)
        if config.reflection:
            add_reflection((*SERVICES, health.SERVICE_NAME), server)
        port = self._port = transport.listen(server, config)
        self._serve_metrics(observer, CollectionState(store, recall, reindexer), limits, operations)
        keeper = HealthKeeper(
            self._health,
            models,
            store,
            self._threads.work,
            data_dir=config.data_dir,
            min_free_bytes=config.min_free_disk_bytes,
            interval_seconds=config.health_interval_seconds,
        )
        await keeper.check()
        # Before the first call arrives, because a client may wait for an operation that a restart interrupted.
        for name, generations in await loop.run_in_executor(self._threads.work, interrupted, store):
            generation_works.go_on(name, generations)
        await server.start()
        await reindexer.begin()
        self._keeping = asyncio.create_task(keeper.keep())
        if checks_recall:
            self._checking = asyncio.create_task(recall.keep())
        return port

    def _make_reindexer(self, store: Store, models: ModelCatalog, setbacks: Setbacks) -> Reindexer:
        config = self._config
        room = Room(data_dir=config.data_dir, min_free_bytes=config.min_free_disk_bytes)
        estimator = Estimator(
            models,
            self._threads.background,
            Footprint(
                disk_bytes=footprint.disk_bytes,
                memory_bytes=footprint.memory_bytes,
                flushed_from=config.segment_min_passages,
            ),
            room,
            max_document_tokens=config.max_document_tokens,
        )
        return Reindexer(
            store,
            models,
            self._threads.background,
            setbacks,
            estimator,
            room,
            max_document_tokens=config.max_document_tokens,
        )

    def _serve_metrics(
        self,
        observer: Observer,
        collections: CollectionState,
        limits: LimitInterceptor,
        operations: OperationRegistry,
    ) -> None:
        if observer.metrics is None:
            return
        observer.metrics.watch_state(
            StateCollector(
                counts=collections.counts,
                collections=collections.infos,
                maintenance=collections.maintenance,
                recall=collections.recalls,
                generations=collections.generations,
                running=lambda: {
                    "search": limits.searches.taken,
                    "ingest": limits.streams.taken,
                    "other": limits.calls.taken,
                },
                operations=lambda: OperationCounts(unfinished=operations.unfinished, ended=operations.ended),
                data_dir=self._config.data_dir,
            )
        )
        self._metrics_page = process.serve_metrics(observer.metrics, self._config)

    async def stop(self, grace_seconds: float) -> None:
        """Stops taking calls, lets running ones finish for ``grace_seconds``, and closes everything. Idempotent.

        Health answers NOT_SERVING for ``config.drain_delay_seconds`` before the server refuses calls, which gives load
        balancers time to look elsewhere. Ingest clients are told to resume their streams. Operations are cancelled, and
        those who wait for them learn how they ended.
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
            cancelling = None
            if self._operations is not None:
                cancelling = asyncio.create_task(self._operations.stop(grace_seconds))
                # It begins before the jobs end: operations of reindexes go on after a restart and must not fail.
                await asyncio.sleep(0)
            if self._reindexer is not None:
                await self._reindexer.close()
            if self._calls is not None:
                await self._calls.drain(grace_seconds)
            if self._request_ids is not None:
                await self._request_ids.drain(max(0.0, grace_seconds - (loop.time() - begin)))
            if cancelling is not None:
                await cancelling
            if self._port:
                await hang_up(self._config.listen, self._port)
            await self._server.stop(max(0.0, grace_seconds - (loop.time() - begin)))
            self._server = None
        if self._reindexer is not None:
            await self._reindexer.close()
        for close in (
            None if self._metrics_page is None else self._metrics_page.close,
            None if self._models is None else self._models.close,
            None if self._store is None else self._store.close,
            self._end_tracing,
        ):
            if close is not None:
                await loop.run_in_executor(None, close)
        self._models = self._store = self._metrics_page = self._end_tracing = None
        if self._operations is not None:
            # A repair may still be at its last step. Its thread would outlive the event loop to which it reports.
            await self._operations.stop(None)
        self._threads.shutdown()


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT; see ``process.serve_until_stopped``."""
    process.serve_until_stopped(Server, config)


def _server_info() -> ServerInfo:
    now = time.time()
    return ServerInfo(
        version=version("shortlist"), start_time_seconds=now, startup_seconds=now - process.start_time(now)
    )
