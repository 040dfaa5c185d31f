"""How long a broken ingest waits between connections, and when it gives up.

A ``Backoff`` belongs to one run and is not thread-safe. Times are of the monotonic clock.
"""

from __future__ import annotations

import random
import time

FIRST_WAIT_SECONDS = 0.1
MAX_WAIT_SECONDS = 5.0


class Backoff:
    """The waits of one run.

    Attributes:
        reconnect_seconds: longest time without an ack while connections break.
        open_seconds: longest time to make the first connection, from the first failure.
    """

    def __init__(self, *, reconnect_seconds: float, open_seconds: float) -> None:
        self.reconnect_seconds = reconnect_seconds
        self.open_seconds = open_seconds
        self._broken_at: float | None = None
        self._opened = False
        self._next_wait_seconds = FIRST_WAIT_SECONDS

    def opened(self, *, idle: bool) -> None:
        """A connection was made; ``idle`` when nothing is waiting for an ack."""
        self._opened = True
        self._next_wait_seconds = FIRST_WAIT_SECONDS
        if idle:
            self._broken_at = None

    def acked(self) -> None:
        """An ack came."""
        self._broken_at = None

    def broke(self) -> None:
        """A connection ended."""
        if self._broken_at is None:
            self._broken_at = time.monotonic()

    def never_opened(self) -> bool:
        """Whether there was no connection at all, for too long."""
        return not self._opened and self._broken_for(min(self.open_seconds, self.reconnect_seconds))

    def exhausted(self) -> bool:
        """Whether the server has been away for too long."""
        return self._broken_for(self.reconnect_seconds)

    def wait_seconds(self, at_least: float | None) -> float:
        """The time until the next connection: it doubles each time, and is random so that clients spread out."""
        wait = self._next_wait_seconds * random.uniform(0.5, 1.0)  # noqa: S311 -- spreads clients, protects nothing
        self._next_wait_seconds = min(MAX_WAIT_SECONDS, self._next_wait_seconds * 2)
        return max(wait, at_least or 0.0)

    def _broken_for(self, seconds: float) -> bool:
        return self._broken_at is not None and time.monotonic() - self._broken_at > seconds
