"""Deletes many documents and gives their space back to the disk, without delaying other callers.

Both run as a chain of small tasks on the writer thread. Each step submits the next when it is done, so the writes of
others run between steps, and searches never wait. Any thread may start one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from shortlist_server.errors import OutOfSpace, Unavailable
from shortlist_server.storage.disk.files import CrashPoint, pass_by
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.values import Effect

_DOCUMENTS_AT_ONCE = 500
_WORTH_RECLAIMING = 1000
_PAGES_AT_ONCE = 256


class BulkDeletion:
    """Deletes documents by key, in steps."""

    def __init__(
        self,
        submit: Callable[[Task[Any]], Future[Any]],
        show: Callable[[Effect], None],
        crash_point: CrashPoint = pass_by,
    ) -> None:
        self._submit = submit
        self._show = show
        self._crash_point = crash_point
        self._reclaiming = False

    @property
    def reclaiming(self) -> bool:
        """Whether space is now being given back."""
        return self._reclaiming

    def delete(self, keys: Sequence[int]) -> Future[int]:
        """Deletes the documents that still exist; the future gets their number once all deletions are durable.

        Each step is a transaction of its own. After an error, the steps before it stay done.
        """
        done: Future[int] = Future()
        done.set_running_or_notify_cancel()
        self._next(keys, 0, 0, done)
        return done

    def _next(
        self,
        keys: Sequence[int],
        start: int,
        deleted: int,
        done: Future[int],
        *,
        at_once: int = _DOCUMENTS_AT_ONCE,
    ) -> None:
        """Deletes from ``start`` on, ``at_once`` documents a transaction; a full disk makes the steps smaller."""
        if start >= len(keys):
            done.set_result(deleted)
            self._reclaim_after(deleted)
            return
        chunk = keys[start : start + max(1, at_once)]

        def apply(transaction: WriteTransaction) -> Effect:
            effect = transaction.remove(chunk)
            self._crash_point("delete:removed")
            return effect

        def publish(effect: Effect) -> int:
            self._crash_point("delete:committed")
            self._show(effect)
            return len(effect.removed_keys)

        def go_on(step: Future[int]) -> None:
            error = step.exception()
            if isinstance(error, OutOfSpace) and len(chunk) > 1:
                self._next(keys, start, deleted, done, at_once=len(chunk) // 4)
            elif error is not None:
                done.set_exception(error)
                self._reclaim_after(deleted)
            else:
                self._next(keys, start + len(chunk), deleted + step.result(), done, at_once=at_once)

        try:
            task = Task(apply, publish, weight=len(chunk), frees=True)
            self._submit(task).add_done_callback(go_on)
        except Unavailable as error:
            done.set_exception(error)

    def _reclaim_after(self, deleted: int) -> None:
        if deleted >= _WORTH_RECLAIMING and not self._reclaiming:
            self._reclaiming = True
            self._reclaim()

    def _reclaim(self) -> None:
        def apply(transaction: WriteTransaction) -> bool:
            return transaction.merge_lexical(_PAGES_AT_ONCE) < 2 and transaction.reclaim(_PAGES_AT_ONCE) == 0

        def go_on(step: Future[bool]) -> None:
            # An error, such as a full disk, ends the chain; the next large deletion starts another.
            if step.exception() is not None or step.result():
                self._reclaiming = False
            else:
                self._reclaim()

        try:
            self._submit(Task(apply, lambda finished: finished, frees=True)).add_done_callback(go_on)
        except Unavailable:
            self._reclaiming = False
