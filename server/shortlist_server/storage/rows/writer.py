"""The writer of a collection: makes every change, one transaction at a time, in the order of submission.

All writers of a store share a few threads. A writer has at most one of them at a time and so behaves as if it had a
single thread; "writer thread" elsewhere in this package means the thread that has the turn. A turn is one group. Then
the next writer has its turn, so no collection delays the others by more than one group.

All tasks that wait when a turn begins form one group: one transaction and one sync, however many callers. Each task
runs inside its own savepoint, so an error undoes only that task's changes. Only after the commit does the writer show
each task's effect to searches and complete its future. Any thread may submit.

While there is no room for growth, a group that grows waits up to a second, without a thread. Only tasks that make room
overtake it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, TypeVar

from shortlist_server.errors import OutOfSpace, Unavailable
from shortlist_server.storage.clock import Clock
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.disk.files import CrashPoint, pass_by
from shortlist_server.storage.rows.reserve import Reserve, make_room, return_room
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.values import Counters, GenerationDamaged

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GROUP_WEIGHT = 4096
_ROOM_SECONDS = 1.0


class Task(Generic[T]):
    """A change: ``apply`` runs within the transaction and ``publish`` after the commit. The future gets its result.

    Attributes:
        weight: documents it changes, which bounds the size of a group.
        grows: whether it adds passages: it needs room on the disk, and waits while the growing segment is too long.
        frees: whether it only deletes: it may use the reserve of a full disk.
        makes_room: whether it shortens the growing segment: it may overtake tasks that grow.
    """

    __slots__ = ("apply", "frees", "future", "grows", "makes_room", "publish", "weight")

    def __init__(
        self,
        apply: Callable[[WriteTransaction], Any],
        publish: Callable[[Any], T],
        *,
        weight: int = 1,
        grows: bool = False,
        frees: bool = False,
        makes_room: bool = False,
    ) -> None:
        self.apply = apply
        self.publish = publish
        self.weight = weight
        self.grows = grows
        self.frees = frees
        self.makes_room = makes_room
        self.future: Future[T] = Future()


class Writer:
    """The queue and the connection. ``close`` finishes what was submitted before it."""

    def __init__(
        self,
        name: str,
        connection: sqlite3.Connection,
        transaction: WriteTransaction,
        *,
        threads: Executor,
        clock: Clock,
        has_room: Callable[[], bool],
        waited: Callable[[float], None],
        reserve: Reserve,
        crash_point: CrashPoint = pass_by,
    ) -> None:
        """``has_room`` says whether groups that grow may run; ``waited`` gets the seconds for which one could not."""
        self._name = name
        self._connection = connection
        self._transaction = transaction
        self._threads = threads
        self._clock = clock
        self._has_room = has_room
        self._waited = waited
        self._reserve = reserve
        self._crash_point = crash_point
        self._queue: deque[Task[Any]] = deque()
        self._changed = threading.Condition()
        self._has_turn = False
        self._waiting_since: float | None = None
        self._closed = False

    def submit(self, task: Task[T]) -> Future[T]:
        """Queues a task. Never blocks.

        Raises:
            Unavailable: the collection is closed.
        """
        with self._changed:
            if self._closed:
                raise Unavailable(f"collection '{self._name}' is closed")
            self._queue.append(task)
            self._ask_for_turn()
        return task.future

    @property
    def queued(self) -> int:
        """Tasks that wait for a turn."""
        return len(self._queue)

    def close(self) -> None:
        """Finishes all submitted tasks. Idempotent."""
        with self._changed:
            self._closed = True
            self._ask_for_turn()
            while self._queue or self._has_turn:
                self._changed.wait()

    def _ask_for_turn(self) -> None:
        if not self._has_turn and self._queue:
            self._has_turn = True
            self._threads.submit(self._turn)

    def _turn(self) -> None:
        try:
            with self._changed:
                group = self._next_group()
            if group:
                self._do([task for task in group if task.future.set_running_or_notify_cancel()])
        except BaseException:
            logger.exception("collection '%s': a turn of the writer failed", self._name)
            raise
        finally:
            with self._changed:
                self._has_turn = False
                # While the first group waits for room, whoever may end the wait asks for the next turn.
                if self._waiting_since is None or any(task.makes_room for task in self._queue) or self._may_grow():
                    self._ask_for_turn()
                self._changed.notify_all()

    def _next_group(self) -> list[Task[Any]]:
        """Takes the tasks of the next transaction from the queue."""
        group, weight = [], 0
        for task in self._queue:
            group.append(task)
            weight += task.weight
            if weight >= _GROUP_WEIGHT:
                break
        if any(task.grows for task in group) and not self._may_grow():
            group = [task for task in self._queue if task.makes_room]
            for task in group:
                self._queue.remove(task)
            return group
        if self._waiting_since is not None:
            self._waited(time.monotonic() - self._waiting_since)
            self._waiting_since = None
        for _ in group:
            self._queue.popleft()
        return group

    def _may_grow(self) -> bool:
        """Whether there is room, or the next group has waited for it long enough."""
        if self._closed or self._has_room():
            return True
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._clock.after(_ROOM_SECONDS, self._look_again)
        return time.monotonic() - self._waiting_since >= _ROOM_SECONDS

    def _look_again(self) -> None:
        with self._changed:
            self._ask_for_turn()

    def _do(self, group: list[Task[Any]]) -> None:
        group = self._with_room(group)
        failed = self._commit(group)
        if isinstance(failed, OutOfSpace):
            self._delete_without_room([task for task in group if task.frees and not task.future.done()], failed)

    def _with_room(self, group: list[Task[Any]]) -> list[Task[Any]]:
        """Fails the tasks that grow while the disk has room only for deletions; returns the others."""
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
        """Uses the reserve to retry deletions that found the disk full."""
        if group:
            make_room(self._connection, self._reserve)
            failed_again = self._commit(group)
            for task in group:
                if not task.future.done():
                    task.future.set_exception(failed_again or failed)
            return_room(self._transaction, self._reserve)

    def _commit(self, group: list[Task[Any]]) -> Exception | None:
        """Commits a group and completes its tasks, except deletions that found no room: the caller retries those.

        Returns:
            The error with which the group failed, if it did.
        """
        before = self._transaction.counters
        applied: list[tuple[Task[Any], Any]] = []
        try:
            with translated(self._name):
                self._connection.execute("BEGIN IMMEDIATE")
                for task in group:
                    self._apply(task, applied)
                self._transaction.save_counters(before)
                self._crash_point("commit:before")
                self._connection.execute("COMMIT")
                self._crash_point("commit:after")
        except GenerationDamaged as damage:
            # SQLite refuses every write of a transaction that met damage, so all of it is undone and done again.
            self._undo(before)
            failed = self._set_apart(damage)
            left = [task for task in group if not task.future.done()]
            return self._commit(left) if failed is None else self._fail(left, failed)
        except Exception as error:
            self._undo(before)
            return self._fail(group, error)
        unrecorded = self._record()
        for task, effect in applied:
            try:
                result = task.publish(effect)
            except Exception as error:
                logger.exception("collection '%s': a committed change could not be shown", self._name)
                task.future.set_exception(error)
            else:
                if unrecorded is None:
                    task.future.set_result(result)
                else:
                    task.future.set_exception(unrecorded)
        return None

    def _fail(self, group: list[Task[Any]], error: Exception) -> Exception:
        for task in group:
            if not task.future.done() and not (task.frees and isinstance(error, OutOfSpace)):
                task.future.set_exception(error)
        return error

    def _set_apart(self, damage: GenerationDamaged) -> Exception | None:
        """Marks a damaged generation, so that nothing is written to it any more; returns the error if that fails."""
        before = self._transaction.counters
        try:
            with translated(self._name):
                self._connection.execute("BEGIN IMMEDIATE")
                self._transaction.mark_unusable(damage.number, damage.problem)
                self._transaction.save_counters(before)
                self._connection.execute("COMMIT")
        except Exception as error:
            self._undo(before)
            return error
        return self._record()

    def _record(self) -> Exception | None:
        """Records the commit; returns the error if that fails, because the commit must then not be acknowledged."""
        try:
            with translated(self._name):
                self._transaction.record_commit()
                self._crash_point("commit:recorded")
        except Exception as error:
            logger.error("collection '%s': a commit could not be recorded: %s", self._name, error)
            return error
        return None

    def _apply(self, task: Task[Any], applied: list[tuple[Task[Any], Any]]) -> None:
        before = self._transaction.counters
        self._connection.execute("SAVEPOINT task")
        try:
            with translated(self._name):
                effect = task.apply(self._transaction)
        except Exception as error:
            # On a full disk SQLite may roll back the whole transaction; then the group fails as one.
            if isinstance(error, GenerationDamaged):
                raise
            if not self._connection.in_transaction or (task.frees and isinstance(error, OutOfSpace)):
                raise
            self._connection.execute("ROLLBACK TO task")
            self._connection.execute("RELEASE task")
            self._transaction.counters = before
            task.future.set_exception(error)
            return
        self._connection.execute("RELEASE task")
        applied.append((task, effect))

    def _undo(self, before: Counters) -> None:
        self._transaction.counters = before
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            logger.exception("collection '%s': rollback failed", self._name)
