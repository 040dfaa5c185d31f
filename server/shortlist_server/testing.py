"""A real server inside the test process, for your own tests.

    with shortlist_server.testing.server() as server, shortlist.Client(server.target) as client:
        ...

It is the server that production runs, with the hashing embedder. That needs no weights and gives the same vectors every
time; texts that share words are near each other. The server runs in its own event loop in a background thread, on a
free port, with a temporary folder. Needs ``shortlist[server]``. Do not fork while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist import Client

if TYPE_CHECKING:
    from shortlist_server.config import Config

__all__ = ["TestServer", "client", "server"]

START_SECONDS = 60.0
GRACE_SECONDS = 2.0


class TestServer:
    """A server in a background thread. Prefer ``server()``, unless the test itself starts and stops it.

    Attributes:
        target: its address, "HOST:PORT", while it runs.
        data_dir: the folder of its collections; ``stop`` leaves it.
    """

    # Tells pytest that this is no test, whatever its name.
    __test__ = False

    def __init__(self, data_dir: Path, *, port: int = 0, **settings: Any) -> None:
        """Starts nothing yet.

        Args:
            data_dir: folder of the collections; created when missing.
            port: 0 picks a free one.
            settings: further fields of the server's ``Config``.
        """
        self.data_dir = data_dir
        self.target = ""
        self._port = port
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: Any = None

    def start(self) -> str:
        """Starts the server and returns its address, as soon as it answers searches.

        Raises:
            ImportError: the server is not installed.
            Exception: whatever kept it from starting.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shortlist-test-server", daemon=True)
        self._thread.start()
        try:
            port = self._run(self._start(), START_SECONDS)
        except BaseException:
            if self._server is not None:
                with contextlib.suppress(Exception):
                    self._run(self._server.stop(0.0), START_SECONDS)
            self._end_loop()
            raise
        self.target = f"127.0.0.1:{port}"
        return self.target

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Stops the server after giving running calls time to finish. Does nothing when it does not run."""
        if self._loop is None:
            return
        try:
            self._run(self._server.stop(grace_seconds), grace_seconds + START_SECONDS)
        finally:
            self._end_loop()

    async def _start(self) -> int:
        from shortlist_server.app import Server

        self._server = Server(self._config())
        port: int = await self._server.start()
        return port

    def _config(self) -> Config:
        from shortlist_server.config import Config

        settings = {"embedders": ("hashing",), "listen": f"127.0.0.1:{self._port}", **self._settings}
        return Config(data_dir=self.data_dir, **settings)

    def _run(self, coroutine: Any, seconds: float) -> Any:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

    def _end_loop(self) -> None:
        assert self._loop is not None and self._thread is not None
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(self._loop.shutdown_default_executor(), self._loop).result(START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()
        self._loop = self._thread = None


@contextlib.contextmanager
def server(data_dir: Path | None = None, **settings: Any) -> Iterator[TestServer]:
    """A server for the duration of a ``with`` block; ``target`` is its address.

    Args:
        data_dir: folder of the collections; a temporary one by default.
        settings: further fields of the server's ``Config``, as in ``max_document_bytes=1000``.

    Raises:
        ImportError: the server is not installed (``pip install 'shortlist[server]'``).
    """
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shortlist-test-")))
        running = TestServer(folder, **settings)
        running.start()
        stack.callback(running.stop)
        yield running


@contextlib.contextmanager
def client(**settings: Any) -> Iterator[Client]:
    """A client with its own server, for the duration of a ``with`` block; ``settings`` as in ``server``."""
    with server(**settings) as running, Client(running.target) as connected:
        yield connected
