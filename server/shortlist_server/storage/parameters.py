"""The configuration and shared resources that a store gives to each of its collections. An immutable value."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from shortlist_server.config import Config
from shortlist_server.storage.clock import Clock
from shortlist_server.storage.disk.files import CrashPoint, Files
from shortlist_server.storage.rows.reader import ReadingConnections
from shortlist_server.storage.rows.reserve import Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a store gives to each of its collections.

    The collections share all of it except ``config`` and ``maintain``, so threads and descriptors do not grow with the
    number of collections.

    Attributes:
        builder: the command of the process that builds segments.
        reserve: disk space kept back for deletions.
        pool: threads that search segments in parallel with the caller's.
        writing_threads: threads that take turns at the collections' writers.
        flushing_threads, merging_threads: threads that wait for builds of segments; apart, as merges take minutes.
        clock: calls functions at their due times.
        connections: the reading connections.
        maintain: whether segments are flushed and merged in the background; tests and tools may do without.
    """

    config: Config
    files: Files
    crash_point: CrashPoint
    builder: tuple[str, ...]
    reserve: Reserve
    pool: ThreadPoolExecutor
    writing_threads: Executor
    flushing_threads: Executor
    merging_threads: Executor
    clock: Clock
    connections: ReadingConnections
    maintain: bool = True
