"""The one table from errors to gRPC statuses.

Errors leave as google.rpc.Status with ErrorInfo, and BadRequest or RetryInfo where they help (AIP-193, AIP-194).
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from shortlist_server import errors

DOMAIN = "shortlist"

STATUS: dict[type[errors.ShortlistError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidVector: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidFilter: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DocumentTooLarge: grpc.StatusCode.INVALID_ARGUMENT,
    errors.RequestIdReused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.CollectionNotFound: grpc.StatusCode.NOT_FOUND,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.GenerationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.OperationNotFound: grpc.StatusCode.NOT_FOUND,
    errors.CollectionExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnsupportedByCollection: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SequenceNotReached: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NewerDataFormat: grpc.StatusCode.FAILED_PRECONDITION,
    errors.GenerationNotReady: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OperationNotPausable: grpc.StatusCode.FAILED_PRECONDITION,
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
    """The status an error leaves with."""
    status: grpc.Status = rpc_status.to_status(status_message(error))
    return status


def status_message(error: errors.ShortlistError) -> status_pb2.Status:
    """The same status as a message, for the error of an operation."""
    code = STATUS[type(error)]
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(code, error.message, details)


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


def _status(code: grpc.StatusCode, message: str, details: list[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        packed.append(item)
    number: int = code.value[0]
    return status_pb2.Status(code=number, message=message, details=packed)
