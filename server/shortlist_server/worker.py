"""The composition root of ``shortlist worker``: the models alone, for servers on other machines.

``Worker`` belongs to the event loop that starts it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from shortlist.worker.v1 import worker_service_pb2, worker_service_pb2_grpc
from shortlist_server.app import serve_until_stopped
from shortlist_server.config import Config
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.inference.catalog import load_models
from shortlist_server.observe.observer import Observer
from shortlist_server.rpc import transport
from shortlist_server.rpc.interceptors import CallInterceptor
from shortlist_server.rpc.worker_service import WorkerServicer

SERVICE = worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name


class Worker:
    """Serves the models of this process; it has no collections."""

    def __init__(self, config: Config) -> None:
        """Nothing starts yet."""
        self._config = config.replace(workers=())
        self._health = health.aio.HealthServicer()
        self._models: ModelCatalog | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Loads the models and listens; returns the port.

        Raises:
            InvalidArgument: others could reach the worker, which knows no keys, and ``insecure`` does not allow it.
            ModelNotFound: a model's files are not there; the message says what to do.
            Unavailable: the address cannot be listened on.
        """
        transport.check_exposure(self._config, has_keys=False)
        with ThreadPoolExecutor(1) as loader:
            self._models = await asyncio.get_running_loop().run_in_executor(loader, load_models, self._config)
        observer = Observer(metrics=None, tracer=None, slow_search_seconds=self._config.slow_search_seconds)
        calls = CallInterceptor(
            max_concurrent=self._config.max_concurrent_rpcs,
            max_seconds=self._config.max_deadline_seconds,
            observer=observer,
        )
        server = grpc.aio.server(interceptors=[calls], options=transport.options(self._config))
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerServicer(self._models, self._config), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        port = transport.listen(server, self._config)
        self._server = server
        await server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Stops taking calls, lets running ones finish for ``grace_seconds``, and frees the models. Idempotent."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(grace_seconds)
            self._server = None
        if self._models is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._models.close)
            self._models = None


def run(config: Config) -> None:
    """Serves until SIGTERM or SIGINT, as ``app.run`` does.

    Raises:
        SystemExit: the worker could not start; the message says why and what to do.
    """
    serve_until_stopped(Worker, config)
