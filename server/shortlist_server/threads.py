"""The thread pools of a server, one for each kind of work that blocks. Made and ended by the composition root."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from shortlist_server.inference.processors import INGEST_NICENESS, lower_priority

SEARCH = 8
"""Threads for the blocking parts of searches, which spend their time in SQLite, hnswlib and numpy, outside the GIL."""

WORK = 4
"""Threads for everything else that blocks. Ingest runs here, so it never takes a search's thread."""

ASIDE = 2
"""Threads that cut documents for generations that do not serve. A worker that hangs holds one of these for a minute."""

LONG = 2
"""Threads for verify, backup and restore, each of which may hold one for minutes; further operations wait."""

LOADING = 1
"""Threads that load published models: one, because two would need the memory of both."""

BACKGROUND = 2
"""Threads for recall checks and for evaluations, whose searches embed and ask the lexical index side by side."""


class ThreadPools:
    """The pools; no thread starts before there is work for it."""

    def __init__(self) -> None:
        self.search = ThreadPoolExecutor(SEARCH, thread_name_prefix="search")
        self.work = ThreadPoolExecutor(WORK, thread_name_prefix="work")
        self.aside = ThreadPoolExecutor(ASIDE, thread_name_prefix="aside")
        self.long = ThreadPoolExecutor(LONG, thread_name_prefix="long")
        self.loading = ThreadPoolExecutor(LOADING, thread_name_prefix="loading")
        self.background = ThreadPoolExecutor(
            BACKGROUND, thread_name_prefix="background", initializer=lower_priority, initargs=(INGEST_NICENESS,)
        )

    def shutdown(self) -> None:
        """Waits for the work that runs, and ends the threads. Idempotent."""
        for pool in (self.search, self.work, self.aside, self.long, self.loading, self.background):
            pool.shutdown()
