"""The health service, and the checks of models, store and disk that it reports.

SearchService needs models and store, CollectionService the store, DocumentService the store and space on the disk;
AdminService and OperationService are there to mend things and serve as long as the server does. The server as a whole
("") is healthy when searches are answered. Coroutines on the server's event loop; the checks block and run in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2

from shortlist_server.domain import Deadline
from shortlist_server.errors import Overloaded, ServiceNotFound, ShortlistError
from shortlist_server.inference.base import EmbedderInfo, ModelCatalog
from shortlist_server.pipeline.models import notice
from shortlist_server.storage.base import Store

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

logger = logging.getLogger(__name__)

T = TypeVar("T")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

PROBE_SECONDS = 10.0
"""Time for a model to embed a few words; one that needs longer counts as stuck."""

SEARCH = "shortlist.v1.SearchService"
DOCUMENTS = "shortlist.v1.DocumentService"
COLLECTIONS = "shortlist.v1.CollectionService"
ADMIN = "shortlist.v1.AdminService"
OPERATIONS = "shortlist.v1.OperationService"


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]
    """grpcio's servicer, with a list, with errors like those of other calls, and with watches that end at a stop.

    Otherwise a stop would wait for the last watch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """See grpc.health.v1."""
        status = self._server_status.get(request.service)
        if status is None:
            raise ServiceNotFound(f"the server has no service '{request.service}'", field="service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: health_pb2.HealthListRequest, context: Context) -> health_pb2.HealthListResponse:
        """See grpc.health.v1."""
        statuses = self._server_status.items()
        return health_pb2.HealthListResponse(
            statuses={service: health_pb2.HealthCheckResponse(status=status) for service, status in statuses}
        )

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """See grpc.health.v1."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watching, ended):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def end(self) -> None:
        """Answers NOT_SERVING from now on, to the watches too."""
        await self.enter_graceful_shutdown()

    def release(self) -> None:
        """Ends the watches."""
        self._ended.set()


def add_health(servicer: HealthServicer, server: grpc.aio.Server) -> None:
    """Serves the health service, behind a ``HealthInterceptor``; ``health_pb2_grpc`` leaves the list out."""
    check, listing = health_pb2.HealthCheckRequest.FromString, health_pb2.HealthListRequest.FromString
    write = methodcaller("SerializeToString")
    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(servicer.Check, check, write),
        "List": grpc.unary_unary_rpc_method_handler(servicer.List, listing, write),
        "Watch": grpc.unary_stream_rpc_method_handler(servicer.Watch, check, write),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods),))
    # Each has its own queue in gRPC, so that a flood of watches cannot hold up the probes.
    server.add_registered_method_handlers(health.SERVICE_NAME, methods)


class HealthKeeper:
    """Checks the parts of the server regularly, and sets the health of its services accordingly."""

    def __init__(
        self,
        servicer: HealthServicer,
        models: ModelCatalog,
        store: Store,
        threads: Executor,
        *,
        data_dir: Path,
        min_free_bytes: int,
        interval_seconds: float,
    ) -> None:
        self._servicer = servicer
        self._models = models
        self._store = store
        self._threads = threads
        self._data_dir = data_dir
        self._min_free_bytes = min_free_bytes
        self._interval_seconds = interval_seconds
        self._problems: dict[str, str] = {}
        self._notices: dict[str, str] = {}
        self._probes = 0

    async def keep(self) -> None:
        """Checks until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self.check()

    async def check(self) -> None:
        """Checks once. Logs a problem when it begins and when it ends."""
        used, notices = await self._in_thread(self._collections)
        self._note_collections(notices)
        models = await self._models_problem(
            lambda info: (
                info == self._models.embedder(self._models.default_embedder).info
                or any((info.name, one) in used for one in (info.revision, *info.former_revisions))
            )
        )
        store = await self._in_thread(self._store_problem)
        disk = await self._in_thread(self._disk_problem)
        for part, problem in (("models", models), ("store", store), ("disk", disk)):
            self._note(part, problem)
        for service, healthy in (
            ("", not (models or store)),
            (SEARCH, not (models or store)),
            (DOCUMENTS, not (store or disk)),
            (COLLECTIONS, not store),
            (ADMIN, True),
            (OPERATIONS, True),
        ):
            await self._servicer.set(service, SERVING if healthy else NOT_SERVING)

    async def _models_problem(self, needed: Callable[[EmbedderInfo], bool]) -> str:
        """Lets every embedder embed a new text, which no cache can answer.

        One that no search needs yet, such as that of a generation being built, does not make the service unhealthy.
        """
        self._probes += 1
        found = ""
        for embedder in self._models.embedders():
            info = embedder.info
            problem = ""
            try:
                await embedder.embed_query(
                    f"health probe {self._probes}",
                    instruction="",
                    dimension=info.dimension,
                    deadline=Deadline.after(PROBE_SECONDS),
                )
            except Overloaded:
                continue  # It has more to do than it can, which is not illness.
            except ShortlistError as error:
                problem = f"embedder '{info.name}': {error.message}"
            if needed(info):
                found = found or problem
            else:
                self._note(f"embedder '{info.name}' in revision {info.revision[:12]}", problem)
        return found

    def _collections(self) -> tuple[set[tuple[str, str]], dict[str, str]]:
        """Name and revision of the models that searches need, and the notices about collections, by name."""
        used, notices = set(), {}
        with contextlib.suppress(ShortlistError):
            for collection in self._store.known():
                with contextlib.suppress(ShortlistError):
                    config = collection.config
                    used.add((config.embedder, config.embedder_revision))
                    if text := notice(config, self._models):
                        notices[collection.name] = text
        return used, notices

    def _note_collections(self, notices: dict[str, str]) -> None:
        """Logs news about the models of collections, once for each change."""
        for name, text in notices.items():
            if self._notices.get(name) != text:
                logger.warning("collection '%s': %s", name, text)
        for name in self._notices.keys() - notices.keys():
            logger.info("collection '%s': its model is as it should be", name)
        self._notices = notices

    def _store_problem(self) -> str:
        try:
            self._store.names()
        except ShortlistError as error:
            return error.message
        return ""

    def _disk_problem(self) -> str:
        try:
            free = shutil.disk_usage(self._data_dir).free
        except OSError as error:
            return str(error)
        return f"{free} bytes are left on the disk" if free < self._min_free_bytes else ""

    def _note(self, part: str, problem: str) -> None:
        before = self._problems.get(part, "")
        self._problems[part] = problem
        if problem and not before:
            logger.error("%s: not healthy: %s", part, problem)
        elif before and not problem:
            logger.info("%s: healthy again", part)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)
