"""Decides which work of several lanes goes first: ingest before the builds of generations.

The lanes of one processor share a ``Precedence``. Background batches wait while any of these lanes has foreground work,
but they get at least a fifth of the time, so that a stream that never pauses cannot stop a build. Any
thread.
"""

from __future__ import annotations

import threading
import time

_PATIENCE = 4.0
"""A background batch waits for foreground work at most this many times as long as the batch before it took."""


class Precedence:
    """Counts the foreground work of some lanes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._foreground = 0
        self._due = 0.0

    def begin(self, items: int) -> None:
        """So many items of foreground work have come."""
        with self._lock:
            self._foreground += items

    def end(self, items: int) -> None:
        """So many items of foreground work are done, or given up."""
        with self._lock:
            self._foreground -= items

    def background_may_run(self) -> bool:
        """Whether a background batch may begin now."""
        return self._foreground <= 0 or time.monotonic() >= self._due

    def background_ran(self, seconds: float) -> None:
        """A background batch has run for so long."""
        with self._lock:
            self._due = time.monotonic() + _PATIENCE * seconds
