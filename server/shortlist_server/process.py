"""Runs a server or a worker as a process: logging, signals, the start and the drained end.

``serve_until_stopped`` is called once, from the main thread. The rest is what a server and a worker build alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from opentelemetry.trace import Tracer
from threadpoolctl import threadpool_limits

from shortlist_server import memory
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, ShortlistError, Unavailable
from shortlist_server.keys import KeyRing
from shortlist_server.observe import logs, tracing
from shortlist_server.observe.metrics import Metrics, MetricsPage
from shortlist_server.observe.observer import Observer
from shortlist_server.rpc import transport
from shortlist_server.storage.disk import descriptors

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""Longest turn of a thread while others wait for the interpreter; a tenth of Python's default. A search changes threads
several times, and while ingest computes, it waits one turn at each change."""


TORCH = "torch"
"""Takes and frees blocks of megabytes in each run; with pages of their own they would cost it a fifth of its speed."""


class Running(Protocol):
    """What ``serve_until_stopped`` starts and stops: a server, or a worker."""

    async def start(self) -> int:
        """Starts; returns the port."""

    async def stop(self, grace_seconds: float) -> None:
        """Stops."""


def serve_until_stopped(make: Callable[[Config], Running], config: Config, what: str = "server") -> None:
    """Serves until SIGTERM or SIGINT; a second signal exits at once.

    Prints ``shortlist serving on HOST:PORT`` when it is ready.

    Args:
        make: makes the server or the worker.
        what: its name in messages.

    Raises:
        SystemExit: it could not start; the message says why and what to do.
    """
    try:
        logs.configure(config.log_level, config.log_format)
    except ValueError as error:
        sys.exit(f"shortlist: the {what} cannot start: {error}")
    try:
        sys.setswitchinterval(SWITCH_SECONDS)
        descriptors.raise_limit()
        # Threads of OpenBLAS wait for each other, on cores that ingest may hold. Searches already run in parallel.
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
            # The objects of the start live on. A full garbage collection would walk over them again and again, and stop
            # the server for a tenth of a second and more where torch is loaded.
            gc.freeze()
            if TORCH not in sys.modules:
                memory.separate_large_blocks()
            host = config.listen.rpartition(":")[0]
            print(f"shortlist serving on {host}:{port}", flush=True)  # noqa: T201
            await interrupted
            logger.info("stopping")
        else:
            # Loading runs in a thread and cannot be interrupted; `stop` closes what it opens.
            with contextlib.suppress(ShortlistError):
                await starting
    finally:
        interrupted.cancel()
        await server.stop(config.drain_seconds)


def start_time(now: float) -> float:
    """When this process started, in seconds since the epoch; ``now`` where the system does not say."""
    try:
        # Field 22, counted after the parenthesised name: clock ticks from boot to the start (proc(5)).
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return now - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return now


def make_observer(config: Config, tracer: Tracer | None = None) -> tuple[Observer, Callable[[], None] | None]:
    """The observer that the settings ask for, and what ends its tracing. ``tracer`` replaces the settings' own.

    Raises:
        InvalidArgument: the settings ask for traces, but the libraries for them are not installed.
    """
    end = None
    if tracer is None and config.tracing:
        tracer, end = tracing.start_exporting(version("shortlist"))
    metrics = Metrics() if config.metrics_listen else None
    return Observer(metrics=metrics, tracer=tracer, slow_search_seconds=config.slow_search_seconds), end


def serve_metrics(metrics: Metrics, config: Config) -> MetricsPage:
    """Serves the metrics page. Raises ``Unavailable``."""
    try:
        return metrics.serve(config.metrics_listen)
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot serve metrics on {config.metrics_listen}: {error}") from error


def key_ring(config: Config) -> KeyRing | None:
    """The keys to accept; None where the settings have none, and every caller may do everything."""
    file = Path(config.api_keys_file) if config.api_keys_file else None
    keys = KeyRing(config.api_keys, file)
    if file is not None and not len(keys):
        raise InvalidArgument(f"the API keys file has no keys: {file}", field="api_keys_file")
    if len(keys) and not config.tls_certificate and not transport.is_loopback(config.listen):
        logger.warning("API keys travel unencrypted: give --tls-certificate, or put a proxy that speaks TLS in front")
    return keys if len(keys) else None
