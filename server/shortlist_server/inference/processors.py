"""How models share this machine's cores: threads, parallel runs and priorities. Any thread."""

from __future__ import annotations

import os
import threading

from shortlist_server.config import Config

_MAX_THREADS = 8
"""More threads for one run of a small encoder cost more than they gain."""

_MAX_QUERY_RUNS = 4

INGEST_NICENESS = 10
"""Added to the OS priority value of threads that must yield to queries."""


def threads(config: Config) -> int:
    """Threads of one model run: the setting, else the cores that this process may use, at most 8."""
    return config.inference_threads or min(_cores(), _MAX_THREADS)


def passage_runs(config: Config) -> int:
    """How many batches of passages run side by side: one for every 8 cores, unless the threads are set."""
    return 1 if config.inference_threads else max(_cores() // _MAX_THREADS, 1)


def query_runs(config: Config) -> int:
    """How many queries run side by side, each on one thread."""
    return min(config.inference_threads or _cores(), _MAX_QUERY_RUNS)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lower_priority(niceness: int) -> None:
    """Lowers the calling thread's OS priority, which the threads it starts inherit. Does nothing outside Linux."""
    if niceness > 0 and hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + niceness)
