"""What a store gives to each of its collections. An immutable value."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from shortlist_server.config import Config
from shortlist_server.storage.files import CrashPoint, Files
from shortlist_server.storage.reserve import Reserve


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a collection is given by its store.

    Attributes:
        builder: the command of the process that builds segments.
        reserve: space kept back for deletions.
        pool: threads that search segments beside the caller's.
        maintain: whether segments are sealed and merged in the background; tests and tools may do without.
    """

    config: Config
    files: Files
    crash_point: CrashPoint
    builder: tuple[str, ...]
    reserve: Reserve
    pool: ThreadPoolExecutor
    maintain: bool = True
