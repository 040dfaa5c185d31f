"""Errors as part of an answer: the failure of one item in a call that succeeds."""

from __future__ import annotations

from shortlist.v1 import error_pb2 as pb
from shortlist_server.errors import ShortlistError


def error_out(error: ShortlistError) -> pb.Error:
    """The error of one item."""
    message = pb.Error(
        reason=pb.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
        message=error.message,
        field=error.field,
        retryable=error.retryable,
        metadata=error.metadata,
    )
    if error.retryable and error.retry_after_seconds is not None:
        message.retry_after.FromMilliseconds(round(error.retry_after_seconds * 1000))
    return message
