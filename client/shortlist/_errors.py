"""The error tree of the client: the server's, plus the errors of this side.

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
    │   └── ServerUnavailable      no server answers at the target
    ├── StreamConflict             let the other client have the stream, or stop it
    ├── EtagMismatch               read the collection again, then repeat
    ├── OperationCancelled         start the operation again, if it is still wanted
    ├── InferenceFailed            report it; another input may work
    ├── DataCorrupted              restore a backup
    │   └── CommitsLost            restore a backup, or go on without them: ``verify`` with ``accept_loss``
    ├── Unimplemented              use a newer release
    ├── Unauthenticated            send a known API key
    ├── PermissionDenied           use a key with the right
    ├── Cancelled                  the call was cancelled on this side
    ├── InternalError              report it with its request id
    ├── ClientClosed               make a new client
    ├── UsedAfterFork              make a client in the child process
    └── IngestError                look at its summary
        ├── IngestFailed           documents failed, and nobody read their acks
        ├── IngestInterrupted      run it again; it says how it resumes
        ├── StreamLost             ingest again from the start
        └── ResumeMismatch         ingest what the checkpoint or stream was made for, or start a new one

Every error of a call keeps the raw status: ``code``, ``details`` and ``__cause__``, the ``grpc.RpcError``. ``_status``
makes them; a test holds the classes equal to the proto's reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

    from shortlist._ingest_types import IngestSummary


class ShortlistError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        reason: name of the ``ErrorReason`` value in the proto, without its prefix; "" for errors of this side. On an
            error from a newer server it may be a name this release does not know.
        retryable: whether the same call may succeed later, unchanged.
        message: one sentence for a person: what is wrong and what to do.
        field: path of the request field that is wrong, or "".
        metadata: details for programs; keys and values are text.
        retry_after_seconds: how long to wait before repeating, or None.
        code: the gRPC status code, or None when no call was made.
        details: the message of the gRPC status, or "".
    """

    reason: str = ""
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_seconds: float | None = None,
        code: grpc.StatusCode | None = None,
        details: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_seconds = retry_after_seconds
        self.code = code
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} (field: {self.field})" if self.field else self.message


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


class RequestIdReused(InvalidArgument):
    """The request id belongs to another request. This client makes a new id for each call."""

    reason = "REQUEST_ID_REUSED"


class ModelRefused(InvalidArgument):
    """A file of the model is damaged, foreign, of a kind that the server does not read, or too large."""

    reason = "MODEL_REFUSED"


class NotFound(ShortlistError):
    """Something named does not exist."""


class CollectionNotFound(NotFound):
    """There is no collection of that name."""

    reason = "COLLECTION_NOT_FOUND"


class ModelNotFound(NotFound):
    """The server has no model of that name."""

    reason = "MODEL_NOT_FOUND"


class GenerationNotFound(NotFound):
    """The collection has no generation of that number, or is dropping it."""

    reason = "GENERATION_NOT_FOUND"


class OperationNotFound(NotFound):
    """There is no operation of that name: it ended and was forgotten, or the server was restarted since."""

    reason = "OPERATION_NOT_FOUND"


class ServiceNotFound(NotFound):
    """A health check named a service that the server does not have."""

    reason = "SERVICE_NOT_FOUND"


class CollectionExists(ShortlistError):
    """A collection of that name exists."""

    reason = "COLLECTION_EXISTS"


class ModelExists(ShortlistError):
    """The server has other files under this name and version."""

    reason = "MODEL_EXISTS"


class FailedPrecondition(ShortlistError):
    """The state of the server or the collection does not allow the call."""


class ModelMismatch(FailedPrecondition):
    """The server's model is not the one the collection was made with."""

    reason = "MODEL_MISMATCH"


class UnsupportedByCollection(FailedPrecondition):
    """The collection's settings do not allow the call."""

    reason = "UNSUPPORTED_BY_COLLECTION"


class SequenceNotReached(FailedPrecondition):
    """The collection did not reach the asked sequence in time."""

    reason = "SEQUENCE_NOT_REACHED"
    retryable = True


class NewerDataFormat(FailedPrecondition):
    """The data folder was written by a newer release of the server."""

    reason = "NEWER_DATA_FORMAT"


class GenerationNotReady(FailedPrecondition):
    """The generation lacks documents or serves already, or another one is being built."""

    reason = "GENERATION_NOT_READY"


class OperationNotPausable(FailedPrecondition):
    """Operations of this kind cannot pause."""

    reason = "OPERATION_NOT_PAUSABLE"


class ModelInUse(FailedPrecondition):
    """A generation was made with the model, or the settings of a collection name it."""

    reason = "MODEL_IN_USE"


class ModelNotReady(FailedPrecondition):
    """The model's upload is not complete, or the server is just publishing it."""

    reason = "MODEL_NOT_READY"


class ModelsElsewhere(FailedPrecondition):
    """The server's models run on workers, so models cannot be published to it."""

    reason = "MODELS_ELSEWHERE"


class ResourceExhausted(ShortlistError):
    """A limit is reached for now."""

    retryable = True


class Overloaded(ResourceExhausted):
    """A queue or a limit on concurrent work is full; ``retry_after_seconds`` says when to try again."""

    reason = "OVERLOADED"


class OutOfSpace(ResourceExhausted):
    """The server's disk is full, or a limit on its models is reached; nothing was written."""

    reason = "OUT_OF_SPACE"


class DeadlineExceeded(ShortlistError):
    """The deadline passed before the answer came."""

    reason = "DEADLINE_EXCEEDED"
    retryable = True


class Unavailable(ShortlistError):
    """The server, or a part it needs, is starting or stopping."""

    reason = "UNAVAILABLE"
    retryable = True


class ServerUnavailable(Unavailable):
    """No server answers at the target: it is not there, or the connection broke."""


class StreamConflict(ShortlistError):
    """Another client opened the ingest stream of the same name, and has it now: the newest opener wins.

    Runs never retry it, and programs must not: the two clients would end each other's streams for ever.
    Remedy: stop one of them, or give each a name of its own.
    """

    reason = "STREAM_CONFLICT"


class EtagMismatch(ShortlistError):
    """The collection's settings changed since the etag was read."""

    reason = "ETAG_MISMATCH"


class OperationCancelled(ShortlistError):
    """The operation was cancelled before it was done; a cancelled backup or restore has left nothing behind."""

    reason = "OPERATION_CANCELLED"


class InferenceFailed(ShortlistError):
    """A model failed on this input."""

    reason = "INFERENCE_FAILED"


class DataCorrupted(ShortlistError):
    """A file of the collection is damaged and cannot be rebuilt."""

    reason = "DATA_CORRUPTED"


class CommitsLost(DataCorrupted):
    """The collection lacks acknowledged commits, or nobody can tell whether it does."""

    reason = "COMMITS_LOST"


class Unimplemented(ShortlistError):
    """The server's release does not do this."""

    reason = "UNIMPLEMENTED"


class Unauthenticated(ShortlistError):
    """No API key was sent, or one the server does not know."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(ShortlistError):
    """The API key has no right to the call or the collection."""

    reason = "PERMISSION_DENIED"


class Cancelled(ShortlistError):
    """The call was cancelled, as by closing the client while it ran."""


class InternalError(ShortlistError):
    """An unexpected fault; the server's log has it under ``metadata["request_id"]``."""

    reason = "INTERNAL"


class ClientClosed(ShortlistError):
    """The client was closed."""


class UsedAfterFork(ShortlistError):
    """The client was made in another process; gRPC connections do not survive a fork."""


class IngestError(ShortlistError):
    """An ingest did not complete.

    Attributes:
        summary: what became of the operations so far.
    """

    def __init__(self, message: str, *, summary: IngestSummary) -> None:
        super().__init__(message)
        self.summary = summary


class IngestFailed(IngestError):
    """Operations failed and their acks were not read; ``summary.failures`` has the first of them."""


class IngestInterrupted(IngestError):
    """The server stayed away for too long; ``__cause__`` is the last error. What is acked is durable.

    Remedy: run the same ingest again with the same checkpoint, or with ``summary.stream`` as its stream and
    ``resume=True`` when this was the first run under that name; or just again: what is stored is not embedded twice.
    """

    retryable = True


class StreamLost(IngestError):
    """The server lost positions that it had acknowledged: its data was replaced. Ingest again from the start."""


class ResumeMismatch(IngestError):
    """The place to resume from is unreadable, or belongs to another collection, stream or list of operations."""
