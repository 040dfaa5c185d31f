"""The error tree of the server: one class per thing a caller can do about it.

    ShortlistError
    ├── InvalidArgument            change the request
    │   ├── InvalidVector
    │   ├── InvalidFilter
    │   └── DocumentTooLarge
    ├── NotFound                   name something that exists
    │   ├── CollectionNotFound
    │   └── ModelNotFound
    ├── CollectionExists           choose another name
    ├── FailedPrecondition         change the collection or the server, then repeat
    │   ├── ModelMismatch
    │   ├── UnsupportedByCollection
    │   ├── SequenceNotReached
    │   └── NewerDataFormat
    ├── ResourceExhausted          wait, then repeat
    │   ├── Overloaded
    │   └── OutOfSpace
    ├── DeadlineExceeded           repeat with more time
    ├── Unavailable                repeat with backoff
    ├── StreamConflict             let the other client have the stream, or stop it
    ├── EtagMismatch               read the collection again, then repeat
    ├── InferenceFailed            report it; another input may work
    ├── DataCorrupted              restore a backup
    │   └── CommitsLost            restore a backup, or go on without them
    ├── Unimplemented              use a newer release
    ├── Unauthenticated            send a known API key
    └── PermissionDenied           use a key with the right

No gRPC here: ``rpc/status.py`` maps each class to a status, and a test walks this tree.
"""

from __future__ import annotations

from typing import ClassVar


class ShortlistError(Exception):
    """Base of every error that may reach a caller.

    Attributes:
        reason: the name of the ``ErrorReason`` value in the proto, without its prefix.
        retryable: whether the same call may succeed later, unchanged.
        message: one sentence for a person: what is wrong and what to do.
        field: path of the request field that is wrong, or "".
        metadata: details for programs; keys and values are text.
        retry_after_seconds: how long to wait before repeating, or None.
    """

    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        metadata: dict[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds


def error_class(reason: str) -> type[ShortlistError]:
    """The most general class with this reason; the base when there is none."""
    waiting: list[type[ShortlistError]] = [ShortlistError]
    while waiting:
        found = waiting.pop(0)
        if found.__dict__.get("reason") == reason:
            return found
        waiting += found.__subclasses__()
    return ShortlistError


class InvalidArgument(ShortlistError):
    """A field of the request is wrong."""

    reason = "INVALID_ARGUMENT"


class InvalidVector(InvalidArgument):
    """A vector has a wrong size, is zero, or is not finite."""

    reason = "INVALID_VECTOR"


class InvalidFilter(InvalidArgument):
    """A filter is malformed, too deep or too large."""

    reason = "INVALID_FILTER"


class DocumentTooLarge(InvalidArgument):
    """A document is over a limit of the server or the collection."""

    reason = "DOCUMENT_TOO_LARGE"


class NotFound(ShortlistError):
    """Something named does not exist."""

    reason = "COLLECTION_NOT_FOUND"


class CollectionNotFound(NotFound):
    """There is no collection of that name."""

    reason = "COLLECTION_NOT_FOUND"


class ModelNotFound(NotFound):
    """The server has no model of that name, or its files are not there."""

    reason = "MODEL_NOT_FOUND"


class CollectionExists(ShortlistError):
    """A collection of that name exists."""

    reason = "COLLECTION_EXISTS"


class FailedPrecondition(ShortlistError):
    """The state of the server or the collection does not allow the call."""

    reason = "UNSUPPORTED_BY_COLLECTION"


class ModelMismatch(FailedPrecondition):
    """The loaded model is not the one the collection was made with."""

    reason = "MODEL_MISMATCH"


class UnsupportedByCollection(FailedPrecondition):
    """The collection's settings do not allow the call."""

    reason = "UNSUPPORTED_BY_COLLECTION"


class SequenceNotReached(FailedPrecondition):
    """The collection did not reach the asked sequence in time."""

    reason = "SEQUENCE_NOT_REACHED"
    retryable = True


class NewerDataFormat(FailedPrecondition):
    """The data folder was written by a newer release."""

    reason = "NEWER_DATA_FORMAT"


class ResourceExhausted(ShortlistError):
    """A limit is reached for now."""

    reason = "OVERLOADED"
    retryable = True


class Overloaded(ResourceExhausted):
    """A queue or a limit on concurrent work is full."""

    reason = "OVERLOADED"


class OutOfSpace(ResourceExhausted):
    """The disk is full; nothing was written."""

    reason = "OUT_OF_SPACE"


class DeadlineExceeded(ShortlistError):
    """The caller's deadline passed."""

    reason = "DEADLINE_EXCEEDED"
    retryable = True


class Unavailable(ShortlistError):
    """The server, or a part it needs, is starting or stopping."""

    reason = "UNAVAILABLE"
    retryable = True


class StreamConflict(ShortlistError):
    """Another client opened the stream of the same name; the newest has it."""

    reason = "STREAM_CONFLICT"


class EtagMismatch(ShortlistError):
    """The collection's settings changed since the etag was read."""

    reason = "ETAG_MISMATCH"


class InferenceFailed(ShortlistError):
    """A model failed on this input."""

    reason = "INFERENCE_FAILED"


class DataCorrupted(ShortlistError):
    """A file is damaged and cannot be rebuilt."""

    reason = "DATA_CORRUPTED"


class CommitsLost(DataCorrupted):
    """The database lacks commits that were acknowledged, or it cannot be told whether it does."""

    reason = "COMMITS_LOST"


class Unimplemented(ShortlistError):
    """The call is part of the contract, but this release does not do it."""

    reason = "UNIMPLEMENTED"


class Unauthenticated(ShortlistError):
    """No API key, or an unknown one."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(ShortlistError):
    """The API key has no right to the call or the collection."""

    reason = "PERMISSION_DENIED"
