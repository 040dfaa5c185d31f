"""The interface of a measured peer: each file of ``engines`` implements it as a class ``Peer``.

This file runs in the peers' own environments and imports only the standard library and numpy. Use an engine from one
thread, except that ``search`` may run beside ``add`` where ``searches_while_adding``.
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
"""Parameters of the graph, for every peer that lets one choose them."""


class Engine:
    """A peer's index in one folder, over vectors that each have an integer to filter by.

    Attributes:
        title: its name in the table.
        kind: "server", "embedded" or "library".
        requirements: packages of its environment; None for the environment that runs the benchmark.
        settings: the chosen settings, in one line.
        efforts: values of ``ef``, ascending; the first that reaches the recall is measured.
        searches_while_adding: whether a search may run beside an ``add``.
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
        """What the peer lacks on this machine besides its packages; None when it can run."""
        return None

    def start(self) -> None:
        """Opens the folder, or starts the server on it; returns once searches are answered."""
        raise NotImplementedError

    def create(self) -> None:
        """Makes the empty index; called once, after the first ``start``."""
        raise NotImplementedError

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        """Adds rows; returns once they are as durable as the peer makes them."""
        raise NotImplementedError

    def add_all(
        self, vectors: Vectors, buckets: Sequence[int], first: int, size: int, acked: Callable[[int], None]
    ) -> None:
        """Adds many rows with ids from ``first``, ``size`` at a time; reports to ``acked`` how many are durable."""
        for start in range(0, len(vectors), size):
            end = min(start + size, len(vectors))
            self.add(range(first + start, first + end), vectors[start:end], buckets[start:end])
            acked(end)

    def commit(self) -> None:
        """Makes durable what ``add`` did not; most peers need nothing here."""

    def settle(self) -> None:
        """Prepares for timed searches as the peer's documentation says: builds an index, or waits for it."""

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        """Ids of the nearest rows, best first; with ``below``, only of rows whose bucket is below it."""
        raise NotImplementedError

    def present(self, ids: Sequence[int]) -> int:
        """The number of these ids that are stored."""
        raise NotImplementedError

    def stop(self) -> None:
        """Closes the index, or stops the server."""

    def pids(self) -> list[int]:
        """The processes that hold the data."""
        return [os.getpid()]


def free_port() -> int:
    """A port on which nobody listens at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: subprocess.Popen[Any], port: int, seconds: float = 60.0) -> None:
    """Waits until a process listens on the port; looks a hundred times a second.

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
    """Processor time that a process has used; 0 where the system does not report it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def children(pid: int) -> list[int]:
    """The running child processes of a process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for one in lists for child in one.read_text().split()]


def wait_until_quiet(pids: Sequence[int], *, window: float = 1.0, seconds: float = 600.0) -> None:
    """Waits until the processes use almost no processor time, because their background work is done."""
    until = time.monotonic() + seconds
    before = sum(map(cpu_seconds, pids))
    while time.monotonic() < until:
        time.sleep(window)
        now = sum(map(cpu_seconds, pids))
        if now - before < 0.05 * window:
            return
        before = now
