"""Keeps a bounded number of a store's collections open, however many the store has.

An unused collection is closed when its time is up, or earlier if another needs its place. Its time is
``collection_idle_seconds`` from its last use, or ten thousand times as long as its opening took, whichever is longer.
Reopening a large collection that is used now and then therefore costs at most a ten-thousandth of the time. The
collection whose time is up first loses its place first.

A collection in use is never closed, and one that builds a segment only for want of descriptors. When all are in use,
more are opened beside them as far as the limit of open files allows; beyond that, the caller is told to try again
later. Any thread may call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

from shortlist_server import memory
from shortlist_server.errors import Overloaded
from shortlist_server.storage.clock import Alarm, Clock
from shortlist_server.storage.disk import descriptors

logger = logging.getLogger(__name__)

KEPT_TIMES_OPENING = 10_000
"""How long an unused collection stays open at least, as a multiple of the time its opening took."""

_NEW_DESCRIPTORS = 5
_LONGEST_SWEEP_INTERVAL = 30.0
_RETRY_SECONDS = 0.5
_USUAL_IDLE_SECONDS = 600.0


class Closable(Protocol):
    """What the cache needs to know of a collection."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def unused_since(self) -> float:
        """When it was used last, on the monotonic clock."""

    @property
    def open_seconds(self) -> float:
        """How long its last opening took."""

    @property
    def descriptors(self) -> int:
        """How many file descriptors it has."""

    def close_unused(self, *, even_busy: bool) -> bool:
        """Closes it, unless it is in use or, without ``even_busy``, building a segment; returns whether it did."""


class OpenCollectionCache:
    """The open collections of a store; decides when to close which."""

    def __init__(
        self, *, most: int, most_descriptors: int, idle_seconds: float, clock: Clock, threads: Executor
    ) -> None:
        """``most``: how many unused collections stay open; ``idle_seconds`` 0: they stay while there is room."""
        self._most_descriptors = most_descriptors
        self._most = max(1, min(most, most_descriptors // _NEW_DESCRIPTORS))
        if self._most < most:
            logger.warning(
                "max_open_collections is %d, but the limit of %d open files allows only %d",
                most,
                descriptors.limit(),
                self._most,
            )
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._threads = threads
        self._lock = threading.Lock()
        self._open: dict[Closable, None] = {}
        self._alarm: Alarm | None = None
        self._sweeping = False
        self._closed = False

    def __len__(self) -> int:
        """How many are open, or being opened."""
        return len(self._open)

    @property
    def most(self) -> int:
        """How many may stay open while unused."""
        return self._most

    @property
    def crowded(self) -> bool:
        """Whether more are open than may stay open."""
        return len(self._open) > self._most

    def admit(self, collection: Closable) -> None:
        """Gives a place to a collection that is about to be opened; if there is none, closes others.

        Raises:
            Overloaded: all others are in use, and the limit of open files allows no more.
        """
        with self._lock:
            self._open[collection] = None
        if not self._full():
            return
        for even_busy in (False, True):
            for other in self._by_time():
                if other is not collection and other.close_unused(even_busy=even_busy) and not self._full():
                    return
        self.leave(collection)
        raise Overloaded(
            f"collection '{collection.name}' cannot be opened now: {len(self)} others are in use, and the limit of"
            f" {descriptors.limit()} open files allows no more; repeat the call later, or raise the limit (ulimit -n)",
            metadata={"collection": collection.name, "limit": str(descriptors.limit())},
            retry_after_seconds=_RETRY_SECONDS,
        )

    def make_way(self, collection: Closable) -> bool:
        """Closes one unused collection for another that found no descriptor left; returns whether there was one."""
        return any(other is not collection and other.close_unused(even_busy=False) for other in self._by_time())

    def entered(self) -> None:
        """Tells the cache that an admitted collection is open."""
        if self.crowded:
            self.sweep_soon()
        elif self._alarm is None:
            self._arm()

    def leave(self, collection: Closable) -> None:
        """Tells the cache that a collection was closed, or could not be opened."""
        with self._lock:
            self._open.pop(collection, None)

    def sweep_soon(self) -> None:
        """Closes the collections that need not be open, on another thread. Never blocks."""
        with self._lock:
            if self._sweeping or self._closed:
                return
            self._sweeping = True
        self._threads.submit(self._sweep)

    def close(self) -> None:
        """Stops closing collections. Idempotent."""
        with self._lock:
            self._closed = True
            if self._alarm is not None:
                self._alarm.cancel()

    def _full(self) -> bool:
        return sum(max(_NEW_DESCRIPTORS, one.descriptors) for one in self._members()) > self._most_descriptors

    def _members(self) -> Sequence[Closable]:
        with self._lock:
            return list(self._open)

    def _by_time(self) -> Sequence[Closable]:
        return sorted(self._members(), key=self._kept_until)

    def _kept_until(self, collection: Closable) -> float:
        least = self._idle_seconds or _USUAL_IDLE_SECONDS
        return collection.unused_since + max(least, KEPT_TIMES_OPENING * collection.open_seconds)

    def _sweep(self) -> None:
        with self._lock:
            # From here on another sweep may be requested, because this one may miss collections added later.
            self._sweeping = False
        now, freed = time.monotonic(), False
        for collection in self._by_time():
            is_due = self._idle_seconds > 0 and self._kept_until(collection) <= now
            if not (is_due or self.crowded):
                break
            try:
                freed = (collection.close_unused(even_busy=False) and is_due) or freed
            except Exception:
                # One collection's error must not keep the others open.
                logger.exception("collection '%s' could not be closed", collection.name)
        if freed:
            memory.give_back()
        self._arm()

    def _arm(self) -> None:
        if self._idle_seconds <= 0:
            return
        with self._lock:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = None
            if self._open and not self._closed:
                interval = min(_LONGEST_SWEEP_INTERVAL, self._idle_seconds / 4)
                self._alarm = self._clock.after(interval, self.sweep_soon)
