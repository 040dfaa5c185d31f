"""The error tree of the server: one class for each thing that a caller can do about it.

    ShortlistError
    ├── InvalidArgument            change the request
    │   ├── InvalidVector
    │   ├── InvalidFilter
    │   ├── DocumentTooLarge
    │   ├── RequestIdReused
    │   └── ModelRefused
    ├── NotFound                   name something that exists
    │   ├── CollectionNotFound
    │   ├── ModelNotFound
    │   ├── GenerationNotFound
    │   ├── OperationNotFound
    │   └── ServiceNotFound
    ├── CollectionExists           choose another name
    ├── ModelExists                choose another version
    ├── FailedPrecondition         change the collection or the server, then repeat
    │   ├── ModelMismatch
    │   ├── UnsupportedByCollection
    │   ├── SequenceNotReached
    │   ├── NewerDataFormat
    │   ├── GenerationNotReady
    │   ├── OperationNotPausable
    │   ├── ModelInUse
    │   ├── ModelNotReady
    │   └── ModelsElsewhere
    ├── ResourceExhausted          wait, then repeat
    │   ├── Overloaded
    │   └── OutOfSpace
    ├── DeadlineExceeded           repeat with more time
    ├── Unavailable                repeat with backoff
    ├── StreamConflict             leave the stream to the other client, or stop that client
    ├── EtagMismatch               read the collection again, then repeat
    ├── OperationCancelled         start the operation again, if it is still wanted
    ├── InferenceFailed            report it; another input may work
    ├── DataCorrupted              restore a backup
    │   └── CommitsLost            restore a backup, or continue without them
    ├── Unimplemented              use a newer release
    ├── Unauthenticated            send a known API key
    └── PermissionDenied           use a key with the right scope and collections

No gRPC here: ``rpc/status.py`` maps each class to a status, and a test walks this tree.
"""

from __future__ import annotations

from typing import ClassVar


class ShortlistError(Exception):
    """Base of every error that can reach a caller.

    Attributes:
        reason: the name of the ``ErrorReason`` value in the proto, without its prefix.
        retryable: whether the unchanged call may succeed later.
        message: one sentence for a person: what is wrong and what to do.
        field: path of the wrong field in the request, or "".
        metadata: details for programs, as text.
        retry_after_seconds: how long to wait before the next attempt, or None.
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
    """The most general class with this reason; the base class when none has it."""
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
    """A vector has the wrong size, is zero, or is not finite."""

    reason = "INVALID_VECTOR"


class InvalidFilter(InvalidArgument):
    """A filter is malformed, too deep or too large."""

    reason = "INVALID_FILTER"


class DocumentTooLarge(InvalidArgument):
    """A document exceeds a limit of the server or the collection."""

    reason = "DOCUMENT_TOO_LARGE"


class RequestIdReused(InvalidArgument):
    """The request id belongs to another request."""

    reason = "REQUEST_ID_REUSED"


class ModelRefused(InvalidArgument):
    """A file of the model to publish is damaged, foreign, of a kind that is not read, or too large."""

    reason = "MODEL_REFUSED"


class NotFound(ShortlistError):
    """What the request names does not exist."""

    reason = "COLLECTION_NOT_FOUND"


class CollectionNotFound(NotFound):
    """No collection has that name."""

    reason = "COLLECTION_NOT_FOUND"


class ModelNotFound(NotFound):
    """The server has no model of that name, or the model's files are missing."""

    reason = "MODEL_NOT_FOUND"


class GenerationNotFound(NotFound):
    """The collection has no such generation, or it is being dropped."""

    reason = "GENERATION_NOT_FOUND"


class OperationNotFound(NotFound):
    """No operation has that name: it ended and was forgotten, or the server was restarted since."""

    reason = "OPERATION_NOT_FOUND"


class ServiceNotFound(NotFound):
    """The server has no service of that name, whose health was asked for."""

    reason = "SERVICE_NOT_FOUND"


class CollectionExists(ShortlistError):
    """A collection of that name exists already."""

    reason = "COLLECTION_EXISTS"


class ModelExists(ShortlistError):
    """A model of that name and version exists, with other files."""

    reason = "MODEL_EXISTS"


class FailedPrecondition(ShortlistError):
    """The server or the collection is in a state that does not allow the call."""

    reason = "UNSUPPORTED_BY_COLLECTION"


class ModelMismatch(FailedPrecondition):
    """The loaded model is not the one that made the collection's vectors."""

    reason = "MODEL_MISMATCH"


class UnsupportedByCollection(FailedPrecondition):
    """The collection's settings do not allow the call."""

    reason = "UNSUPPORTED_BY_COLLECTION"


class SequenceNotReached(FailedPrecondition):
    """The collection did not reach the requested sequence in time."""

    reason = "SEQUENCE_NOT_REACHED"
    retryable = True


class NewerDataFormat(FailedPrecondition):
    """A newer release wrote the data folder."""

    reason = "NEWER_DATA_FORMAT"


class GenerationNotReady(FailedPrecondition):
    """The generation's state does not allow the call: it lacks documents, it serves, or another one is being built."""

    reason = "GENERATION_NOT_READY"


class OperationNotPausable(FailedPrecondition):
    """Operations of this kind cannot pause."""

    reason = "OPERATION_NOT_PAUSABLE"


class ModelInUse(FailedPrecondition):
    """A generation was made with the model, or the settings of a collection name it."""

    reason = "MODEL_IN_USE"


class ModelNotReady(FailedPrecondition):
    """The model's upload is not complete, or the model is just being published."""

    reason = "MODEL_NOT_READY"


class ModelsElsewhere(FailedPrecondition):
    """The server's models run on workers, so models cannot be published to it."""

    reason = "MODELS_ELSEWHERE"


class ResourceExhausted(ShortlistError):
    """A limit is reached at the moment."""

    reason = "OVERLOADED"
    retryable = True


class Overloaded(ResourceExhausted):
    """A queue or a limit on concurrent work is full."""

    reason = "OVERLOADED"


class OutOfSpace(ResourceExhausted):
    """The disk is full, or the models have reached their limit; nothing was written."""

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
    """Another client opened the stream of the same name; the newest client owns it."""

    reason = "STREAM_CONFLICT"


class EtagMismatch(ShortlistError):
    """The collection's settings changed since the etag was read."""

    reason = "ETAG_MISMATCH"


class OperationCancelled(ShortlistError):
    """The operation was cancelled before it was done."""

    reason = "OPERATION_CANCELLED"


class InferenceFailed(ShortlistError):
    """A model failed on this input."""

    reason = "INFERENCE_FAILED"


class DataCorrupted(ShortlistError):
    """A file is damaged and cannot be rebuilt."""

    reason = "DATA_CORRUPTED"


class CommitsLost(DataCorrupted):
    """The database lacks acknowledged commits, or it is unknown whether it does."""

    reason = "COMMITS_LOST"


class Unimplemented(ShortlistError):
    """This release has no such method."""

    reason = "UNIMPLEMENTED"


class Unauthenticated(ShortlistError):
    """The call has no API key, or an unknown one."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(ShortlistError):
    """The API key does not allow the call or the collection."""

    reason = "PERMISSION_DENIED"
