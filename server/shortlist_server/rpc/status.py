"""The one table from errors to gRPC statuses, and the one place where the server ends a call with an error.

Errors leave as google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they help (AIP-193, AIP-194).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from shortlist_server import errors

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

DOMAIN = "shortlist"

MAX_MESSAGE_BYTES, MAX_VALUE_BYTES = 1000, 200
"""Longest message of a status, and longest field name and value in its details. They quote what a caller sent, and
clients refuse trailers of more than 8 KiB (https://grpc.io/docs/guides/metadata), in which the message comes three
times."""

_CUT = " ... "

STATUS: dict[type[errors.ShortlistError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidVector: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidFilter: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DocumentTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RequestIdReused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.CollectionNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.GenerationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.OperationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ServiceNotFound: grpc.StatusCode.NOT_FOUND,
    errors.CollectionExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.ModelExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnsupportedByCollection: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SequenceNotReached: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NewerDataFormat: grpc.StatusCode.FAILED_PRECONDITION,
    errors.GenerationNotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OperationNotPausable: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelInUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelNotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelsElsewhere: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.OutOfSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.StreamConflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EtagMismatch: grpc.StatusCode.ABORTED,
    errors.OperationCancelled: grpc.StatusCode.CANCELLED,
    errors.InferenceFailed: grpc.StatusCode.INTERNAL,
    errors.DataCorrupted: grpc.StatusCode.DATA_LOSS,
    errors.CommitsLost: grpc.StatusCode.DATA_LOSS,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
}


def grpc_status(error: errors.ShortlistError) -> grpc.Status:
    """The status an error leaves with; long texts in it are cut in the middle."""
    status: grpc.Status = rpc_status.to_status(status_message(error))
    return status


def status_message(error: errors.ShortlistError) -> status_pb2.Status:
    """The same status as a message, for the error of an operation."""
    code = STATUS[type(error)]
    message = _cut(error.message, MAX_MESSAGE_BYTES)
    metadata = {key: _cut(value, MAX_VALUE_BYTES) for key, value in error.metadata.items()}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.field:
        field = _cut(error.field, MAX_VALUE_BYTES)
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(code, message, details)


def internal_status(request_id: str) -> grpc.Status:
    """The status of an unexpected fault: nothing but an id to find it in the log by."""
    status: grpc.Status = rpc_status.to_status(internal_message(request_id))
    return status


def internal_message(request_id: str) -> status_pb2.Status:
    """The same status as a message."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"request_id": request_id})
    return _status(
        grpc.StatusCode.INTERNAL, f"unexpected fault; the server's log has it as request {request_id}", [info]
    )


def is_expected(error: Exception) -> TypeGuard[errors.ShortlistError]:
    """Whether the error is meant for the caller; the base class itself stands for unforeseen ones."""
    return isinstance(error, errors.ShortlistError) and type(error) is not errors.ShortlistError


async def abort(context: Context, status: grpc.Status, *metadata: tuple[str, str]) -> None:
    """Ends a call with a status and further trailing metadata. Raises the exception by which gRPC ends the handler.

    Call it outside the handling of the error: gRPC keeps the exception that this raises, and all that its traceback
    refers to.
    """
    await context.abort(status.code, status.details, (*(status.trailing_metadata or ()), *metadata))


def _cut(text: str, most: int) -> str:
    """The text; if it has more than ``most`` bytes, its beginning and its end. Lone surrogates become "?"."""
    data = text.encode("utf-8", "replace")
    if len(data) > most:
        part = (most - len(_CUT)) // 2
        return data[:part].decode("utf-8", "ignore") + _CUT + data[-part:].decode("utf-8", "ignore")
    return data.decode()


def _status(code: grpc.StatusCode, message: str, details: list[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    number: int = code.value[0]
    return status_pb2.Status(code=number, message=message, details=packed)
