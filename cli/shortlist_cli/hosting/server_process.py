"""A server in a child process, for the commands that start their own.

The child is ``python -m shortlist_cli serve`` on a free port. It is ready once it prints its address. It is always
stopped: SIGTERM first, for an orderly drain, then SIGKILL. Its standard error goes to a log file, from which the parent
reads the progress of the start; a failed start shows the end of that log. Use an object from one thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

READY_PREFIX = "shortlist serving on "
"""The beginning of the line that a server prints once it answers; the address follows."""

START_SECONDS = 300.0
"""Longest wait for the ready line; the first start of a model may convert it."""

STOP_SECONDS = 30.0
"""Longest wait after SIGTERM; a little more than the server's own drain time."""


_PROGRESS = re.compile(r" INFO \S+ shortlist_server\.start: (.+)")
"""A line of the child's log that names a step of its start."""

_LOOK_SECONDS = 0.2
"""Pause between looks at the log while the child starts."""


class ServerNotStarted(Exception):
    """The child ended, or was not ready in time. The message has the end of its log."""


class ServerProcess:
    """A running child server.

    Attributes:
        target: its address, "HOST:PORT".
        process: the child, for its pid and return code.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        arguments: Sequence[str] = (),
        log_path: Path | None = None,
        listen: str = "127.0.0.1:0",
        start_seconds: float = START_SECONDS,
        command: str = "serve",
        on_progress: Callable[[str], None] = lambda doing: None,
    ) -> None:
        """Starts the child and waits until it answers.

        Args:
            data_dir: folder of the collections; made when missing.
            arguments: more arguments of ``shortlist serve``.
            log_path: file to append its standard error to; by default a temporary file.
            listen: address to listen on; port 0 takes a free one.
            start_seconds: longest wait for the ready line.
            command: "serve" or "worker".
            on_progress: called with each new step of the start.

        Raises:
            ServerNotStarted: the child ended or was not ready in time; it no longer runs.
        """
        self._log: IO[bytes] = log_path.open("ab+") if log_path else tempfile.TemporaryFile(mode="ab+")  # noqa: SIM115 -- closed in kill()
        self._followed = self._log.seek(0, os.SEEK_END)
        program = [sys.executable, "-m", "shortlist_cli", command, "--listen", listen, "--data-dir", str(data_dir)]
        self.process = subprocess.Popen(  # noqa: S603 -- our own interpreter and command
            [*program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._drain = threading.Thread(target=self._read_lines, name="shortlist-serve-output", daemon=True)
        self._drain.start()
        try:
            self.target = self._wait_ready(start_seconds, on_progress)
        except BaseException:
            self.kill()
            raise

    def stop(self, *, stop_seconds: float = STOP_SECONDS) -> int:
        """Asks the child to drain and end, then kills it if it still runs; returns its return code."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(stop_seconds)
        return self.kill()

    def kill(self) -> int:
        """Ends the child at once, as a crash would; returns its return code. Harmless when it has ended."""
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait()
        self._drain.join(timeout=5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
        return code

    def ending(self, *, wait_seconds: float = 1.0) -> str | None:
        """The child's return code and the end of its log; None if it still runs after ``wait_seconds``."""
        try:
            code = self.process.wait(wait_seconds)
        except subprocess.TimeoutExpired:
            return None
        return f"the server ended with code {code}\n{self._log_end()}".strip()

    def _read_lines(self) -> None:
        # Reads for the life of the child, because a full pipe would block it.
        output = self.process.stdout
        assert output is not None
        with contextlib.suppress(ValueError, OSError):
            for line in output:
                self._lines.put(line.decode(errors="replace").strip())
        self._lines.put(None)

    def _wait_ready(self, seconds: float, on_progress: Callable[[str], None]) -> str:
        until = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=min(max(0.0, until - time.monotonic()), _LOOK_SECONDS))
            except queue.Empty:
                line = ""
                if time.monotonic() > until:
                    raise ServerNotStarted(f"the server was not ready after {seconds:g} s\n{self._log_end()}") from None
            for doing in self._new_progress():
                on_progress(doing)
            if line is not None and line.startswith(READY_PREFIX):
                return line.removeprefix(READY_PREFIX).split()[0]
            if line is None:
                self.process.wait()
                raise ServerNotStarted(self.ending())

    def _new_progress(self) -> list[str]:
        """The steps of the start in the whole log lines since the last look."""
        # pread, not seek: the child shares the file's position and writes at it.
        log = self._log.fileno()
        whole, newline, _ = os.pread(log, os.fstat(log).st_size - self._followed, self._followed).rpartition(b"\n")
        self._followed += len(whole) + len(newline)
        return _PROGRESS.findall(whole.decode(errors="replace"))

    def _log_end(self, length: int = 4000) -> str:
        self._log.flush()
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - length))
        return self._log.read().decode(errors="replace").strip()


@contextlib.contextmanager
def stopped_in_order() -> Iterator[None]:
    """Makes SIGTERM end a ``with`` block as Ctrl-C does, so that servers in it stop; the exit code is 143."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def running_server(
    data_dir: Path,
    *,
    arguments: Sequence[str] = (),
    log_path: Path | None = None,
    on_progress: Callable[[str], None] = lambda doing: None,
) -> Iterator[str]:
    """Runs a server for the length of a ``with`` block; yields its address, "HOST:PORT".

    Args:
        data_dir: folder of the collections; made when missing.
        arguments: more arguments of ``shortlist serve``, as in ``["--embedder", "hashing"]``.
        log_path: file to append its standard error to.
        on_progress: as in ``ServerProcess``.

    Raises:
        ServerNotStarted: the child ended or was not ready in time.
    """
    with stopped_in_order():
        server = ServerProcess(data_dir, arguments=arguments, log_path=log_path, on_progress=on_progress)
        try:
            yield server.target
        finally:
            server.stop()
