"""How many threads and side-by-side runs of a model suit this machine's processors. Pure functions; any thread."""

from __future__ import annotations

import os

from shortlist_server.config import Config

_MAX_THREADS = 8
"""More threads on one run of a small encoder cost more than they bring."""

_MAX_QUERY_RUNS = 4

INGEST_NICENESS = 10


def threads(config: Config) -> int:
    """Threads of one model run: the setting, else the cores this process may use, at most 8."""
    return config.inference_threads or min(_cores(), _MAX_THREADS)


def passage_runs(config: Config) -> int:
    """Batches of passages to run side by side, so that a machine of many cores is used: one for every 8."""
    return 1 if config.inference_threads else max(_cores() // _MAX_THREADS, 1)


def query_runs(config: Config) -> int:
    """Queries to run side by side where each runs alone on one thread."""
    return min(config.inference_threads or _cores(), _MAX_QUERY_RUNS)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
