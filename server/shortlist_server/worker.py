"""The composition root of ``shortlist worker``, which serves models alone, to servers on other machines.

``Worker`` belongs to the event loop that starts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc.aio
from grpc_health.v1 import health_pb2
from opentelemetry.trace import Tracer

from shortlist.worker.v1 import worker_service_pb2, worker_service_pb2_grpc
from shortlist_server import preflight, process
from shortlist_server.config import Config
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.inference.catalog import load_models
from shortlist_server.observe.metrics import MetricsPage
from shortlist_server.rpc import transport
from shortlist_server.rpc.authorization import WORKER_RULES, AuthorizationInterceptor
from shortlist_server.rpc.hangup import hang_up
from shortlist_server.rpc.health import HealthServicer, add_health
from shortlist_server.rpc.health_calls import HealthInterceptor
from shortlist_server.rpc.holding import watch_calls
from shortlist_server.rpc.interceptors import CallInterceptor
from shortlist_server.rpc.requests import RequestReader
from shortlist_server.rpc.unknown_methods import UnknownMethodInterceptor
from shortlist_server.rpc.worker_service import WorkerServicer

SERVICE = worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name


class Worker:
    """Serves the models of this process; it has no collections."""

    def __init__(self, config: Config, *, tracer: Tracer | None = None) -> None:
        """Starts nothing. Without a ``tracer``, ``config.tracing`` decides whether traces are sent."""
        self._config = config.replace(workers=())
        self._tracer = tracer
        self._health = HealthServicer()
        self._models: ModelCatalog | None = None
        self._calls: CallInterceptor | None = None
        self._server: grpc.aio.Server | None = None
        self._port = 0
        self._metrics_page: MetricsPage | None = None
        self._end_tracing: Callable[[], None] | None = None

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics page; None if there is none."""
        return None if self._metrics_page is None else self._metrics_page.port

    async def start(self) -> int:
        """Loads the models and listens; returns the port.

        Raises:
            InvalidArgument: a setting is wrong, or callers beyond loopback would need no key.
            ModelNotFound: a model's files are missing; the message says what to do.
            Unavailable: the worker cannot listen on an address.
        """
        watch_calls(asyncio.get_running_loop())
        transport.keep_library()
        keys = process.key_ring(self._config)
        transport.check_exposure(self._config, has_keys=keys is not None)
        observer, self._end_tracing = process.make_observer(self._config, self._tracer)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as loader:
            await loop.run_in_executor(loader, partial(preflight.check, self._config, keeps_collections=False))
            self._models = await loop.run_in_executor(loader, load_models, self._config, observer)
        calls = self._calls = CallInterceptor(
            max_concurrent=self._config.max_concurrent_rpcs,
            max_seconds=self._config.max_deadline_seconds,
            max_answer_seconds=self._config.max_answer_seconds,
            reader=RequestReader(self._config),
            observer=observer,
        )
        # Kept at once, so that `stop` ends it even if the start fails below.
        server = self._server = grpc.aio.server(
            interceptors=[
                UnknownMethodInterceptor(),
                HealthInterceptor(self._config),
                calls,
                AuthorizationInterceptor(keys, WORKER_RULES),
            ],
            options=transport.options(self._config),
        )
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerServicer(self._models, self._config), server)
        add_health(self._health, server)
        port = self._port = transport.listen(server, self._config)
        if observer.metrics is not None:
            self._metrics_page = process.serve_metrics(observer.metrics, self._config)
        await server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls, gives running ones ``grace_seconds`` to finish, and frees the models. Idempotent."""
        await self._health.end()
        if self._server is not None:
            if self._calls is not None:
                await self._calls.drain(grace_seconds)
            self._health.release()
            if self._port:
                await hang_up(self._config.listen, self._port)
            await self._server.stop(0.0)
            self._server = None
        for close in (
            None if self._metrics_page is None else self._metrics_page.close,
            None if self._models is None else self._models.close,
            self._end_tracing,
        ):
            if close is not None:
                await asyncio.get_running_loop().run_in_executor(None, close)
        self._models = self._metrics_page = self._end_tracing = None


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT; see ``process.serve_until_stopped``."""
    process.serve_until_stopped(Worker, config, "worker")
