# Made by scripts/unasync.py from _async/operations.py; change that file.
"""A client's calls for long-running operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shortlist import _operation_calls as operation_calls
from shortlist._calls import Call
from shortlist._errors import InternalError, ShortlistError
from shortlist._operation_types import Operation, OperationKind, OperationProgress, OperationState
from shortlist._sync.base import ClientBase
from shortlist._sync.channel import sleep
from shortlist._sync.pages import Pages


class OperationCalls(ClientBase):
    """Calls that follow, list, pause and cancel operations, such as those that ``start_verify`` starts.

    An operation belongs to the server: it goes on when the client that started it goes away. The server forgets
    an ended operation after a day at most. A restart ends and forgets all of them but the reindexes, which go on.
    """

    def get_operation(self, name: str, *, timeout_seconds: float | None = None) -> Operation:
        """Returns an operation as it is now.

        Raises:
            OperationNotFound: there is none of that name: it ended and was forgotten, or the server was restarted.
        """
        return self._unary(operation_calls.get_operation(name), timeout_seconds)

    def list_operations(
        self,
        *,
        collection: str | None = None,
        kind: OperationKind | None = None,
        state: OperationState | None = None,
        page_size: int = 100,
        timeout_seconds: float | None = None,
    ) -> Pages[Operation]:
        """Operations, newest first, without their results; the timeout is one page's.

        Args:
            collection: only those that work on it, alone or among others.
            kind: only those of this kind.
            state: only those in this state.
            page_size: operations in a page, at most 1,000.
            timeout_seconds: deadline of each page; the client's by default.
        """
        return Pages(
            lambda token: self._unary(
                operation_calls.list_operations(collection, kind, state, page_size, token), timeout_seconds
            )
        )

    def cancel_operation(self, name: str, *, timeout_seconds: float | None = None) -> Operation:
        """Tells an operation to stop, and returns it without waiting, and without its result.

        Harmless when it has ended.
        It stops within about a second, or completes before: its state at the end says which. A cancelled backup or
        restore has left nothing behind.

        Raises:
            OperationNotFound: there is none of that name.
        """
        return self._unary(operation_calls.cancel_operation(name), timeout_seconds)

    def pause_operation(self, name: str, *, timeout_seconds: float | None = None) -> Operation:
        """Pauses a reindex until ``resume_operation``, also over a restart of the server; harmless when it has ended.

        Raises:
            OperationNotFound: there is none of that name.
            OperationNotPausable: operations of its kind cannot pause.
        """
        return self._unary(operation_calls.pause_operation(name), timeout_seconds)

    def resume_operation(self, name: str, *, timeout_seconds: float | None = None) -> Operation:
        """Lets a paused reindex go on where it was, whether a caller paused it or a failure did.

        Raises:
            OperationNotFound: there is none of that name.
            OperationNotPausable: operations of its kind cannot pause.
        """
        return self._unary(operation_calls.resume_operation(name), timeout_seconds)

    def wait_operation(
        self,
        name: str,
        *,
        progress: Callable[[OperationProgress], None] | None = None,
        timeout_seconds: float | None = None,
        reconnect_seconds: float = operation_calls.RECONNECT_SECONDS,
    ) -> Operation:
        """Waits until an operation has ended, and returns it; its ``state`` says whether it succeeded.

        The operation goes on if the wait ends first. The client replaces a broken connection, and asks a busy server
        again.

        Args:
            name: its name.
            progress: called with each progress that comes, a few times a second, in the calling thread.
            timeout_seconds: how long to wait; as long as it takes by default.
            reconnect_seconds: how long the server may be away; only a reindex goes on after a restart.

        Raises:
            OperationNotFound: there is none of that name: it ended and was forgotten, or the server was restarted.
            DeadlineExceeded: it did not end in time.
            ServerUnavailable: the server was away for too long.
        """
        return self._ended(name, operation_calls.Waiting(progress, timeout_seconds, reconnect_seconds))

    def _ended(self, name: str, waiting: operation_calls.Waiting) -> Operation:
        while True:
            try:
                self._stream(operation_calls.wait_operation(name), waiting.take, waiting.left_seconds())
            except ShortlistError as error:
                sleep(waiting.pause_seconds(error))
                continue
            ended = waiting.ended()
            if ended is None:
                raise InternalError("the server ended the wait before the operation")
            return ended

    def _start_and_wait(
        self, start: Call[Operation], progress: Callable[[Any], None] | None, timeout_seconds: float | None
    ) -> Operation:
        """Starts an operation and waits for its end. Whoever interrupts the wait cancels the operation."""
        waiting = operation_calls.Waiting(progress, timeout_seconds, operation_calls.RECONNECT_SECONDS)
        try:
            started = self._unary(start, timeout_seconds)
        except BaseException as error:
            # The server may have started it all the same. A repetition with the same request id returns its name.
            if waiting.interrupted_by(error):
                with suppress(ShortlistError):
                    self._give_up((self._unary(start, operation_calls.GIVE_UP_SECONDS)).name)
            raise
        try:
            return self._ended(started.name, waiting)
        except BaseException as error:
            if waiting.interrupted_by(error):
                self._give_up(started.name)
            raise

    def _give_up(self, name: str) -> None:
        """Cancels an operation and waits for a moment, so that what it wrote is gone when its caller goes on."""
        with suppress(ShortlistError):
            told = self.cancel_operation(name, timeout_seconds=operation_calls.GIVE_UP_SECONDS)
            if not told.done:
                self.wait_operation(name, timeout_seconds=operation_calls.GIVE_UP_SECONDS)
