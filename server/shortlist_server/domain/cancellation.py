"""Tells work that it should stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shortlist_server.errors import OperationCancelled


class Cancellation:
    """One side calls ``cancel``; the work calls ``check`` between two steps. Any thread; nothing here blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: dict[object, Callable[[], None]] = {}

    @property
    def cancelled(self) -> bool:
        """Whether the work should stop."""
        return self._cancelled

    def cancel(self) -> None:
        """Asks the work to stop, and calls what ``calling`` registered. Idempotent."""
        with self._lock:
            if not self._cancelled:
                self._cancelled = True
                for callback in self._callbacks.values():
                    callback()

    def check(self) -> None:
        """Raises ``OperationCancelled`` once the work should stop."""
        if self._cancelled:
            raise OperationCancelled("the operation was cancelled before it was done")

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Registers a function that ``cancel`` calls, at most once and only during the block. It must not block.

        Raises:
            OperationCancelled: ``cancel`` was called before.
        """
        token = object()
        with self._lock:
            self.check()
            self._callbacks[token] = callback
        try:
            yield
        finally:
            with self._lock:
                del self._callbacks[token]


NEVER = Cancellation()
"""For work that nobody cancels."""
