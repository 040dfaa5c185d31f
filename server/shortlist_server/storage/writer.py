"""The writer thread of a collection: every change goes through it, one transaction at a time.

Whatever waits when it is free is one group: one transaction, one sync, however many callers. Each task runs inside its
own savepoint, so an error undoes its own changes alone. After the commit, and only then, each task's effect is shown to
searches and its future is done. Any thread may submit.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from shortlist_server.errors import OutOfSpace, Unavailable
from shortlist_server.storage.faults import translated
from shortlist_server.storage.files import CrashPoint, pass_by
from shortlist_server.storage.reserve import Reserve, make_room, return_room
from shortlist_server.storage.truth import Counters, Truth

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GROUP_WEIGHT = 4096


class Task(Generic[T]):
    """A change: ``apply`` within the transaction, ``publish`` after the commit; the future gets what it returns.

    Attributes:
        weight: documents it changes, which bounds the size of a group.
        grows: whether it adds passages, and so waits while the tail is too long and needs room on the disk.
        frees: whether it only deletes, and so may use the reserve of a full disk.
    """

    __slots__ = ("apply", "frees", "future", "grows", "publish", "weight")

    def __init__(
        self,
        apply: Callable[[Truth], Any],
        publish: Callable[[Any], T],
        *,
        weight: int = 1,
        grows: bool = False,
        frees: bool = False,
    ) -> None:
        self.apply = apply
        self.publish = publish
        self.weight = weight
        self.grows = grows
        self.frees = frees
        self.future: Future[T] = Future()


class Writer:
    """The thread, its queue and its connection. ``close`` finishes what was submitted before it."""

    def __init__(
        self,
        name: str,
        connection: sqlite3.Connection,
        truth: Truth,
        *,
        wait_for_room: Callable[[], None],
        reserve: Reserve,
        crash_point: CrashPoint = pass_by,
    ) -> None:
        self._name = name
        self._connection = connection
        self._truth = truth
        self._wait_for_room = wait_for_room
        self._reserve = reserve
        self._crash_point = crash_point
        self._queue: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"writer-{name}", daemon=True)
        self._thread.start()

    def submit(self, task: Task[T]) -> Future[T]:
        """Queues a task. Never blocks.

        Raises:
            Unavailable: the collection is closed.
        """
        with self._lock:
            if self._closed:
                raise Unavailable(f"collection {self._name} is closed")
            self._queue.put(task)
        return task.future

    def close(self) -> None:
        """Finishes all submitted tasks, then ends the thread. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            first = self._queue.get()
            if first is None:
                return
            group, weight = [first], first.weight
            while weight < _GROUP_WEIGHT:
                try:
                    task = self._queue.get_nowait()
                except queue.Empty:
                    break
                if task is None:
                    last = True
                    break
                group.append(task)
                weight += task.weight
            if any(task.grows for task in group):
                self._wait_for_room()
            group = self._with_room([task for task in group if task.future.set_running_or_notify_cancel()])
            failed = self._commit(group)
            if isinstance(failed, OutOfSpace):
                self._delete_without_room([task for task in group if task.frees and not task.future.done()], failed)

    def _with_room(self, group: list[Task[Any]]) -> list[Task[Any]]:
        """Fails the tasks that grow while the disk has room for deletions only; returns the others."""
        if self._reserve.spent:
            try:
                self._reserve.check_growth()
            except OutOfSpace as error:
                for task in group:
                    if task.grows:
                        task.future.set_exception(error)
                group = [task for task in group if not task.grows]
        return group

    def _delete_without_room(self, group: list[Task[Any]], failed: OutOfSpace) -> None:
        """Tries deletions again that found the disk full, with the reserve."""
        if group:
            make_room(self._connection, self._reserve)
            failed_again = self._commit(group)
            for task in group:
                if not task.future.done():
                    task.future.set_exception(failed_again or failed)
            return_room(self._truth, self._reserve)

    def _commit(self, group: list[Task[Any]]) -> Exception | None:
        """Commits a group and settles its tasks; deletions that found no room are left to be tried again.

        Returns:
            What the group failed with.
        """
        before = self._truth.counters
        applied: list[tuple[Task[Any], Any]] = []
        try:
            with translated(self._name):
                self._connection.execute("BEGIN IMMEDIATE")
                for task in group:
                    self._apply(task, applied)
                self._truth.save_counters()
                self._crash_point("commit:before")
                self._connection.execute("COMMIT")
                self._crash_point("commit:after")
        except Exception as error:
            self._undo(before)
            for task in group:
                if not task.future.done() and not (task.frees and isinstance(error, OutOfSpace)):
                    task.future.set_exception(error)
            return error
        unrecorded = self._record()
        for task, effect in applied:
            try:
                result = task.publish(effect)
            except Exception as error:
                logger.exception("collection %s: a committed change could not be shown", self._name)
                task.future.set_exception(error)
            else:
                if unrecorded is None:
                    task.future.set_result(result)
                else:
                    task.future.set_exception(unrecorded)
        return None

    def _record(self) -> Exception | None:
        """Records the commit; what went wrong keeps it from being acknowledged, though it is committed."""
        try:
            with translated(self._name):
                self._truth.record_commit()
                self._crash_point("commit:recorded")
        except Exception as error:
            logger.error("collection %s: a commit could not be recorded: %s", self._name, error)
            return error
        return None

    def _apply(self, task: Task[Any], applied: list[tuple[Task[Any], Any]]) -> None:
        before = self._truth.counters
        self._connection.execute("SAVEPOINT task")
        try:
            with translated(self._name):
                effect = task.apply(self._truth)
        except Exception as error:
            # A full disk rolls the whole transaction back by itself; then the group fails as one.
            if not self._connection.in_transaction or (task.frees and isinstance(error, OutOfSpace)):
                raise
            self._connection.execute("ROLLBACK TO task")
            self._connection.execute("RELEASE task")
            self._truth.counters = before
            task.future.set_exception(error)
            return
        self._connection.execute("RELEASE task")
        applied.append((task, effect))

    def _undo(self, before: Counters) -> None:
        self._truth.counters = before
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            logger.exception("collection %s: rollback failed", self._name)
