"""The calls of ``OperationService``, without a connection (see ``_calls``), and the state of a wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from shortlist._calls import Call
from shortlist._channel import checked_timeout
from shortlist._convert import choice_to_proto
from shortlist._errors import DeadlineExceeded, InternalError, Overloaded, ShortlistError, Unavailable
from shortlist._metadata import checked_integer, checked_text
from shortlist._operation_convert import operation as convert
from shortlist._operation_types import Operation, OperationKind, OperationState
from shortlist._status import is_broken_connection
from shortlist.v1 import operation_pb2
from shortlist.v1 import operation_service_pb2 as pb

OPERATIONS = "shortlist.v1.OperationService"

RECONNECT_SECONDS = 10.0
"""How long the server may be away while a client waits for an operation. A restart ends most operations anyway."""

REINDEX_RECONNECT_SECONDS = 300.0
"""The same for a reindex, which goes on after a restart; long enough for the start of a server with large models."""

GIVE_UP_SECONDS = 5.0
"""How long to wait for an operation to stop when its caller was interrupted. Most stop within one."""

PAUSE_SECONDS = 0.2
"""Time between two connections where the server names none."""

T = TypeVar("T")


def get_operation(name: str) -> Call[Operation]:
    """Returns an operation."""
    return Call(
        f"{OPERATIONS}/GetOperation",
        pb.GetOperationRequest(name=checked_text(name, "name")),
        pb.GetOperationResponse,
        started,
    )


def list_operations(
    collection: str | None, kind: OperationKind | None, state: OperationState | None, page_size: int, page_token: str
) -> Call[tuple[list[Operation], str]]:
    """One page of operations, and the next page's token."""
    return Call(
        f"{OPERATIONS}/ListOperations",
        pb.ListOperationsRequest(
            collection=checked_text(collection or "", "collection"),
            kind=choice_to_proto(operation_pb2.OperationKind, "OPERATION_KIND", kind, "kind"),
            state=choice_to_proto(operation_pb2.OperationState, "OPERATION_STATE", state, "state"),
            page_size=checked_integer(page_size, "page_size"),
            page_token=page_token,
        ),
        pb.ListOperationsResponse,
        lambda response: (list(map(convert, response.operations)), response.next_page_token),
    )


def cancel_operation(name: str) -> Call[Operation]:
    """Tells an operation to stop."""
    return Call(
        f"{OPERATIONS}/CancelOperation",
        pb.CancelOperationRequest(name=checked_text(name, "name")),
        pb.CancelOperationResponse,
        started,
    )


def pause_operation(name: str) -> Call[Operation]:
    """Tells an operation to pause."""
    return Call(
        f"{OPERATIONS}/PauseOperation",
        pb.PauseOperationRequest(name=checked_text(name, "name")),
        pb.PauseOperationResponse,
        started,
    )


def resume_operation(name: str) -> Call[Operation]:
    """Tells a paused operation to go on."""
    return Call(
        f"{OPERATIONS}/ResumeOperation",
        pb.ResumeOperationRequest(name=checked_text(name, "name")),
        pb.ResumeOperationResponse,
        started,
    )


def wait_operation(name: str) -> Call[Operation]:
    """A stream: the operation now and after changes."""
    return Call(
        f"{OPERATIONS}/WaitOperation",
        pb.WaitOperationRequest(name=checked_text(name, "name")),
        pb.WaitOperationResponse,
        started,
        deadline=False,
    )


def started(response: Any) -> Operation:
    """The operation of an answer."""
    return convert(response.operation)


def result_of(operation: Operation, kind: type[T]) -> T:
    """The result of an operation that has ended.

    Raises:
        ShortlistError: why it has none.
        InternalError: it has another kind of result.
    """
    if operation.error is not None:
        raise operation.error
    if not isinstance(operation.result, kind):
        raise InternalError("the operation ended without a result that this release knows")
    return operation.result


def reports_of(operation: Operation, kind: type[T]) -> list[T]:
    """The reports of an operation that has ended. Raises what ``result_of`` raises."""
    return [report for report in result_of(operation, tuple) if isinstance(report, kind)]


class Waiting:
    """One wait for an operation's end, over as many connections as it takes. Belongs to one thread or task."""

    def __init__(
        self,
        progress: Callable[[Any], None] | None,
        timeout_seconds: float | None,
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> None:
        """Begins now; ``timeout_seconds`` None: there is no deadline."""
        self._progress = progress
        self._reconnect_seconds = reconnect_seconds
        self._until = None if timeout_seconds is None else time.monotonic() + checked_timeout(timeout_seconds)
        self._told: object = None
        self._away_since: float | None = None
        self._own_error: BaseException | None = None
        self.latest: Operation | None = None

    def take(self, operation: Operation) -> None:
        """Takes a message of the stream, and reports its progress if that is new. Raises what ``progress`` raises."""
        self._away_since = None
        self.latest = operation
        if self._progress is not None and operation.progress not in (None, self._told):
            self._told = operation.progress
            try:
                self._progress(operation.progress)
            except BaseException as error:
                self._own_error = error
                raise

    def ended(self) -> Operation | None:
        """The operation, once it has ended."""
        return self.latest if self.latest is not None and self.latest.done else None

    def left_seconds(self) -> float | None:
        """The deadline of the next stream; None for none.

        Raises:
            DeadlineExceeded: the time is up.
        """
        if self._until is None:
            return None
        left = self._until - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the operation did not end in time")
        return left

    def pause_seconds(self, error: ShortlistError) -> float:
        """How long to wait before the next stream, after an error of the last one; not beyond the deadline.

        A server that is too busy for the stream is not away, so the client repeats the request as long as it takes.

        Raises:
            BaseException: the error itself, where waiting cannot help, or that of ``progress``.
        """
        if self._own_error is not None:
            raise self._own_error
        if isinstance(error, Overloaded):
            self._away_since = None
        elif isinstance(error, Unavailable) or _broken(error):
            now = time.monotonic()
            self._away_since = self._away_since or now
            if now - self._away_since > self._reconnect_seconds:
                raise error
        else:
            raise error
        pause = error.retry_after_seconds or PAUSE_SECONDS
        left = self.left_seconds()
        return pause if left is None else min(pause, left)

    def interrupted_by(self, error: BaseException) -> bool:
        """Whether the caller ended the wait: by a deadline, an interruption, or an error of ``progress``."""
        return error is self._own_error or isinstance(error, DeadlineExceeded) or not isinstance(error, Exception)


def _broken(error: ShortlistError) -> bool:
    return isinstance(error.__cause__, grpc.RpcError) and is_broken_connection(error.__cause__)
