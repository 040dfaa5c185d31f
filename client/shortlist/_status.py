"""From a failed call to an error of the tree, in one place.

Pure functions. The server sends ``google.rpc.Status`` with ``ErrorInfo`` (and ``BadRequest`` or ``RetryInfo``); a
status without them was made by gRPC itself or by something between, and is mapped by its code.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from shortlist import _errors as errors
from shortlist.v1 import error_pb2

ERROR_DOMAIN = "shortlist"

_STATUS_KEY = "grpc-status-details-bin"
_PREFIX = "ERROR_REASON_"

BY_REASON: dict[str, type[errors.ShortlistError]] = {
    error.reason: error
    for error in (
        errors.InvalidArgument,
        errors.InvalidVector,
        errors.InvalidFilter,
        errors.DocumentTooLarge,
        errors.RequestIdReused,
        errors.ModelRefused,
        errors.CollectionNotFound,
        errors.ModelNotFound,
        errors.GenerationNotFound,
        errors.OperationNotFound,
        errors.ServiceNotFound,
        errors.CollectionExists,
        errors.ModelExists,
        errors.ModelMismatch,
        errors.UnsupportedByCollection,
        errors.SequenceNotReached,
        errors.NewerDataFormat,
        errors.GenerationNotReady,
        errors.OperationNotPausable,
        errors.ModelInUse,
        errors.ModelNotReady,
        errors.ModelsElsewhere,
        errors.Overloaded,
        errors.OutOfSpace,
        errors.DeadlineExceeded,
        errors.Unavailable,
        errors.StreamConflict,
        errors.EtagMismatch,
        errors.OperationCancelled,
        errors.InferenceFailed,
        errors.DataCorrupted,
        errors.CommitsLost,
        errors.Unimplemented,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.InternalError,
    )
}
"""The class of each reason of the proto."""

BY_CODE: dict[grpc.StatusCode, type[errors.ShortlistError]] = {
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.CollectionExists,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailable,
    grpc.StatusCode.DATA_LOSS: errors.DataCorrupted,
}
"""The class of each status code that comes without a reason, or with one this release does not know."""

_BROKEN_CODES = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
)


def from_rpc_error(error: grpc.RpcError) -> errors.ShortlistError:
    """The error that a failed call means; raise it ``from`` the one given."""
    return _error(_status(error), _code(error), _details(error))


def from_status(status: status_pb2.Status) -> errors.ShortlistError:
    """The error of an operation that failed: its status is what a call would have failed with."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return _error(status, code, status.message)


def _error(status: status_pb2.Status | None, code: grpc.StatusCode, details: str) -> errors.ShortlistError:
    info, field, retry_after = _unpack(status)
    reason = info.reason if info is not None and info.domain == ERROR_DOMAIN else ""
    return error_of_reason(
        reason,
        (status.message if status is not None else "") or details or f"the call failed with {code.name}",
        fallback=BY_CODE.get(code, errors.InternalError),
        field=field,
        metadata=dict(info.metadata) if info is not None else {},
        retry_after_seconds=retry_after,
        code=code,
        details=details,
    )


def error_of_reason(
    reason: str, message: str, *, fallback: type[errors.ShortlistError] = errors.InternalError, **parts: Any
) -> errors.ShortlistError:
    """An error of the class of a reason; of the fallback, with the reason kept, when this release does not know it."""
    kind = BY_REASON.get(reason, fallback)
    error = kind(message, **parts)
    if reason and reason != kind.reason:
        error.reason = reason
    return error


def from_item_error(error: error_pb2.Error) -> errors.ShortlistError:
    """The error of one item in a call that succeeded as a whole."""
    try:
        reason = error_pb2.ErrorReason.Name(error.reason).removeprefix(_PREFIX)
    except ValueError:
        reason = str(error.reason)
    result = error_of_reason(
        reason,
        error.message or reason,
        field=error.field,
        metadata=dict(error.metadata),
        retry_after_seconds=error.retry_after.ToTimedelta().total_seconds() if error.HasField("retry_after") else None,
    )
    result.retryable = error.retryable
    return result


def is_broken_connection(error: grpc.RpcError) -> bool:
    """Whether gRPC itself, not the server's code, ended the call: the connection broke, or the server died."""
    return _code(error) in _BROKEN_CODES and _unpack(_status(error))[0] is None


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    code = getattr(error, "code", None)
    found = code() if callable(code) else None
    return found if isinstance(found, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return (details() if callable(details) else None) or ""


def _status(error: Any) -> status_pb2.Status | None:
    metadata = error.trailing_metadata() if callable(getattr(error, "trailing_metadata", None)) else None
    for key, value in metadata or ():
        if key == _STATUS_KEY:
            return status_pb2.Status.FromString(value)
    return None


def _unpack(status: status_pb2.Status | None) -> tuple[error_details_pb2.ErrorInfo | None, str, float | None]:
    """The error's info, the first wrong field, and the seconds to wait."""
    info: error_details_pb2.ErrorInfo | None = None
    field, retry_after = "", None
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            request = error_details_pb2.BadRequest()
            detail.Unpack(request)
            field = request.field_violations[0].field if request.field_violations else ""
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return info, field, retry_after
