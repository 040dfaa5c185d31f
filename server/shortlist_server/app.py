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
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

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
from shortlist_server.config import Config
from shortlist_server.errors import ShortlistError, Unavailable
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.inference.catalog import load_models
from shortlist_server.pipeline.ingest import Ingester
from shortlist_server.pipeline.search import Searcher
from shortlist_server.rpc.admin_service import AdminServicer, ServerInfo
from shortlist_server.rpc.collection_service import CollectionServicer
from shortlist_server.rpc.document_service import DocumentServicer
from shortlist_server.rpc.interceptors import CallInterceptor
from shortlist_server.rpc.search_service import SearchServicer
from shortlist_server.storage.base import Store
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

WORK_THREADS = 4
"""Threads for everything else that blocks, so that ingest never takes a search's thread."""


class Server:
    """A Shortlist server."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._search_threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="search")
        self._work_threads = ThreadPoolExecutor(WORK_THREADS, thread_name_prefix="work")
        self._health = health.aio.HealthServicer()
        self._models: ModelCatalog | None = None
        self._store: EmbeddedStore | None = None
        self._ingester: Ingester | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Loads models, opens collections and listens; when it returns, searches are answered.

        Returns:
            The port that is listened on.

        Raises:
            ModelNotFound: a model's files are not there; the message says what to do.
            Unavailable: the address cannot be listened on.
            DataCorrupted, NewerDataFormat: the data folder cannot be used.
        """
        config = self._config
        loop = asyncio.get_running_loop()
        models = self._models = await loop.run_in_executor(self._work_threads, load_models, config)
        store = self._store = await loop.run_in_executor(self._work_threads, open_store, config)
        await loop.run_in_executor(self._work_threads, _open_all, store)
        ingester = self._ingester = Ingester(store, models, self._work_threads)
        searcher = Searcher(store, models, self._search_threads)
        server = grpc.aio.server(
            interceptors=[
                CallInterceptor(max_concurrent=config.max_concurrent_rpcs, max_seconds=config.max_deadline_seconds)
            ],
            options=_options(config),
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(SearchServicer(searcher, config), server)
        document_service_pb2_grpc.add_DocumentServiceServicer_to_server(
            DocumentServicer(store, ingester, self._work_threads, config), server
        )
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(
            CollectionServicer(store, models, self._work_threads), server
        )
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminServicer(store, models, self._work_threads, _backup_dir(config), _server_info()), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            port = server.add_insecure_port(config.listen)
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {config.listen}: {error}") from error
        self._server = server
        await server.start()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Stops taking calls, lets running ones finish for ``grace_seconds``, and closes everything. Idempotent."""
        await self._health.enter_graceful_shutdown()
        if self._ingester is not None:
            self._ingester.drain()
        if self._server is not None:
            await self._server.stop(grace_seconds)
            self._server = None
        loop = asyncio.get_running_loop()
        for part in (self._models, self._store):
            if part is not None:
                await loop.run_in_executor(None, part.close)
        self._models = self._store = None
        self._search_threads.shutdown()
        self._work_threads.shutdown()


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT; a second signal exits at once.

    Prints ``shortlist serving on HOST:PORT`` when it is ready.

    Raises:
        SystemExit: the server could not start; the message says why and what to do.
    """
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    try:
        asyncio.run(_serve(config))
    except ShortlistError as error:
        sys.exit(f"shortlist: the server cannot start: {error.message}")


async def _serve(config: Config) -> None:
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    server = Server(config)
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


def _open_all(store: Store) -> None:
    """Opens every collection; one that is damaged answers its own calls with the reason, and no other is affected."""
    for name in store.names():
        try:
            store.open(name)
        except ShortlistError as error:
            logger.error("collection '%s' cannot be opened: %s", name, error.message)


def _backup_dir(config: Config) -> Path:
    return Path(config.backup_dir) if config.backup_dir else config.data_dir / "backups"


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


def _options(config: Config) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.so_reuseport", 0),
        # Clients ping every 20 s at the most, also between calls; without leave the transport would end their streams.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
