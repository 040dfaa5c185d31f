"""The lifecycle of a collection: opened on first use, closed when idle, and what is known of it while it is closed.

A ``Lifecycle`` counts the uses of its collection and closes it only while there are none. Opening and closing exclude
each other and may take long. Reading the known facts takes no lock that either of them holds. Any thread may call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from shortlist_server.errors import DataCorrupted, NewerDataFormat, Overloaded, Unavailable
from shortlist_server.storage.compaction.recovery import Damage
from shortlist_server.storage.generations.generations import Tallies
from shortlist_server.storage.opening.facts import Facts, needs_recovery, read_facts
from shortlist_server.storage.opening.open_cache import OpenCollectionCache
from shortlist_server.storage.opening.opened import OpenCollection
from shortlist_server.storage.parameters import Parameters

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Lifecycle:
    """The lifecycle of one collection.

    Attributes:
        opened: the open collection; None while it is closed. Without a use, read only what is in its memory.
        tallies: what its compaction has done so far, by generation.
        damage: the segments that its last opening forgot.
        problem: why the last attempt to open or inspect it failed; empty after a success, or before any attempt.
        unused_since: when it was opened or leased last, on the monotonic clock.
        open_seconds: how long its last opening took.
    """

    def __init__(self, name: str, folder: Path, parameters: Parameters, open_cache: OpenCollectionCache) -> None:
        """Nothing is opened yet."""
        self.name = name
        self._folder = folder
        self._parameters = parameters
        self._open_cache = open_cache
        # Held while the collection is opened or closed; ``_lock`` only guards the fields below.
        self._transition = threading.Lock()
        self._lock = threading.Lock()
        self._uses = 0
        self._gone = False
        self._facts: Facts | None = None
        self.opened: OpenCollection | None = None
        self.tallies: Tallies = {}
        self.damage: tuple[Damage, ...] = ()
        self.problem = ""
        self.unused_since = 0.0
        self.open_seconds = 0.0

    @property
    def descriptors(self) -> int:
        """File descriptors in use now, without those for the logs of its reading connections."""
        opened = self.opened
        return 0 if opened is None else opened.descriptors

    @contextmanager
    def use(self) -> Iterator[OpenCollection]:
        """The open collection, which stays open for the ``with`` block."""
        opened = self.begin()
        try:
            yield opened
        finally:
            self.end()

    def until_done(self, start: Callable[[OpenCollection], Future[T]]) -> Future[T]:
        """Starts work on the open collection, which stays open until the future is done."""
        opened = self.begin()
        try:
            future = start(opened)
        except BaseException:
            self.end()
            raise
        future.add_done_callback(lambda _: self.end())
        return future

    def begin(self) -> OpenCollection:
        """Begins a use, which another thread may end. Opens the collection if it is closed.

        Raises:
            DataCorrupted, NewerDataFormat, OutOfSpace, Overloaded, Unavailable: the collection cannot be opened.
        """
        while True:
            opened = self.try_begin() or self._open()
            if opened is not None:
                return opened

    def try_begin(self) -> OpenCollection | None:
        """Begins a use if the collection is open already, else returns None. Never blocks."""
        with self._lock:
            if self.opened is not None:
                self._uses += 1
            return self.opened

    def end(self) -> None:
        """Ends a use."""
        with self._lock:
            self._uses -= 1
            unused = not self._uses
        if unused and self._open_cache.crowded:
            self._open_cache.sweep_soon()

    def touch(self) -> None:
        """Restarts the collection's idle time."""
        self.unused_since = time.monotonic()

    def facts(self) -> Facts:
        """The present facts, or those from its closing, or those in its database if it was never open.

        Raises:
            DataCorrupted, NewerDataFormat: the database cannot be read.
        """
        opened = self.opened
        if opened is not None:
            return opened.facts()
        if self._facts is None:
            if needs_recovery(self._folder):
                with self.use() as opened:
                    return opened.facts()
            try:
                facts = read_facts(self._folder, self.name)
            except Exception as error:
                if self._gone:
                    raise Unavailable(f"collection '{self.name}' is closed") from error
                self._note(error)
                raise
            self._note(None)
            with self._lock:
                # Meanwhile it may have been opened, changed and closed.
                self._facts = self._facts or facts
        return self._facts

    def close_unused(self, *, even_busy: bool) -> bool:
        """Closes it, unless it is in use or, without ``even_busy``, building a segment; returns whether it did."""
        if not self._transition.acquire(blocking=False):
            return False
        try:
            with self._lock:
                opened = self.opened
                if opened is None or self._uses or (opened.busy and not even_busy):
                    return False
                self._leave_facts(opened)
            self._close(opened)
            return True
        finally:
            self._transition.release()

    def while_closed(self, work: Callable[[], T]) -> T:
        """Does work that needs the files for itself; meanwhile the collection cannot be opened.

        Raises:
            Unavailable: the collection is open.
        """
        with self._transition:
            if self.opened is not None:
                raise Unavailable(f"collection '{self.name}' is in use")
            try:
                return work()
            finally:
                self._facts = None

    def close(self) -> None:
        """Closes it for good, even if it is in use; it cannot be opened again. Idempotent."""
        self._gone = True
        with self._transition:
            with self._lock:
                opened = self.opened
                if opened is None:
                    return
                self._leave_facts(opened)
            self._close(opened)

    def _leave_facts(self, opened: OpenCollection) -> None:
        # Does not look at the disk, because callers on the event loop wait for the lock; the size follows soon.
        self._facts = opened.facts(0 if self._facts is None else self._facts.info.disk_bytes)
        self.opened = None

    def _close(self, opened: OpenCollection) -> None:
        opened.close()
        # Once more: closing moved the log into the database and finished the commits under way.
        self._facts = opened.facts()
        self._open_cache.leave(self)

    def _open(self) -> OpenCollection | None:
        """Opens it and begins a use; None when another thread opened it first."""
        with self._transition:
            if self.opened is not None:
                return None
            if self._gone:
                raise Unavailable(f"collection '{self.name}' is closed")
            self._open_cache.admit(self)
            begin = time.monotonic()
            try:
                opened = self._opened_within_limit()
            except BaseException as error:
                self._open_cache.leave(self)
                self._note(error)
                raise
            self._note(None)
            self.damage = opened.generations.damage
            self.touch()
            self.open_seconds = self.unused_since - begin
            with self._lock:
                self.opened = opened
                self._uses += 1
        self._open_cache.entered()
        return opened

    def _opened_within_limit(self) -> OpenCollection:
        while True:
            try:
                return OpenCollection(self.name, self._folder, self._parameters, self.tallies)
            except Overloaded:
                # Callers' connections may have taken the descriptors meant for collections.
                if not self._open_cache.make_way(self):
                    raise

    def _note(self, error: BaseException | None) -> None:
        """Remembers why the collection cannot be used, and logs each reason once."""
        before = self.problem
        self.problem = error.message if isinstance(error, DataCorrupted | NewerDataFormat) else ""
        if self.problem and self.problem != before:
            logger.error("collection '%s' cannot be opened: %s", self.name, self.problem)
