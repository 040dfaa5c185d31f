"""What a peer has to do to be measured: one class in each file of ``engines``, named ``Peer``.

This file runs in the peers' own environments and imports nothing but the standard library and numpy. An engine is used
from one thread, but for ``search`` beside ``add`` where ``searches_while_adding``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

M = 16
EF_CONSTRUCTION = 200
"""The graph that every peer that lets one choose is built with."""


class Engine:
    """A peer's index over vectors with an integer each to filter by, in one folder.

    Attributes:
        title: how it is called in the table.
        kind: "server", "embedded" or "library".
        requirements: what its environment needs; None for the one that runs the benchmark.
        settings: what was chosen, in a line.
        efforts: how hard a search may look, ascending; the first that reaches the recall is measured.
        searches_while_adding: whether searching beside an ``add`` is allowed at all.
    """

    title = ""
    kind = "embedded"
    requirements: tuple[str, ...] | None = ()
    settings = f"HNSW, M {M}, ef_construction {EF_CONSTRUCTION}"
    efforts: tuple[int, ...] = (10, 20, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800, 1000)
    searches_while_adding = True

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder = folder
        self.dimension = dimension
        self.effort = self.efforts[0]

    @classmethod
    def missing(cls) -> str | None:
        """Why the peer cannot run on this machine, apart from its packages; None when it can."""
        return None

    def start(self) -> None:
        """Opens what is in the folder, or starts the server on it; when it returns, searches are answered."""
        raise NotImplementedError

    def create(self) -> None:
        """Makes the empty index; once, after the first ``start``."""
        raise NotImplementedError

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        """Adds rows; when it returns they are as durable as the peer makes them."""
        raise NotImplementedError

    def add_all(
        self, vectors: Vectors, buckets: Sequence[int], first: int, size: int, acked: Callable[[int], None]
    ) -> None:
        """Adds many rows with ids from ``first``, ``size`` at a time; tells how many are durable."""
        for start in range(0, len(vectors), size):
            end = min(start + size, len(vectors))
            self.add(range(first + start, first + end), vectors[start:end], buckets[start:end])
            acked(end)

    def commit(self) -> None:
        """Makes durable what ``add`` left open; nothing for most."""

    def settle(self) -> None:
        """Builds or waits for whatever the peer's documentation says to, before searches are timed."""

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        """Ids of the nearest rows, best first; only those whose bucket is below the bound."""
        raise NotImplementedError

    def present(self, ids: Sequence[int]) -> int:
        """How many of the ids are there."""
        raise NotImplementedError

    def stop(self) -> None:
        """Closes in an orderly way."""

    def pids(self) -> list[int]:
        """The processes that hold the data."""
        return [os.getpid()]


def free_port() -> int:
    """A port nobody listens on, at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: subprocess.Popen[Any], port: int, seconds: float = 60.0) -> None:
    """Waits until something listens on the port, looking a hundred times a second.

    Raises:
        RuntimeError: the process ended, or time ran out.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.01)
    raise RuntimeError(f"the server did not listen within {seconds:g} s")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def children(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for one in lists for child in one.read_text().split()]


def wait_until_quiet(pids: Sequence[int], *, window: float = 1.0, seconds: float = 600.0) -> None:
    """Waits until the processes have used next to no processor time for a while: their background work is done."""
    until = time.monotonic() + seconds
    before = sum(map(cpu_seconds, pids))
    while time.monotonic() < until:
        time.sleep(window)
        now = sum(map(cpu_seconds, pids))
        if now - before < 0.05 * window:
            return
        before = now
