"""One ingest, without a connection: what to send next, what the server's messages mean, and where a broken run goes on.

Both clients drive this. Invariants: an operation leaves the window only with its ack; acks come out in the order of the
operations; after a break everything without an ack is sent again under its old position, which the server answers
without a second effect. Not thread-safe: the drivers hold a lock or belong to one task.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import grpc

from shortlist._backoff import Backoff
from shortlist._checkpoint import Checkpoint, Progress, checksum
from shortlist._errors import (
    DeadlineExceeded,
    IngestFailed,
    IngestInterrupted,
    InternalError,
    InvalidArgument,
    Overloaded,
    ResumeMismatch,
    ShortlistError,
    StreamConflict,
    StreamLost,
    Unavailable,
)
from shortlist._ingest_operations import Prepared, ack_from_proto, id_of, prepare
from shortlist._ingest_types import Ack, AckStatus, IngestSummary
from shortlist._metadata import checked_text
from shortlist._status import from_rpc_error, is_broken_connection
from shortlist._window import MAX_BATCH_BYTES, Pending, Window
from shortlist.v1 import document_service_pb2 as pb

INGEST_METHOD = "/shortlist.v1.DocumentService/Ingest"

END_SECONDS = 5.0
"""How long to wait for the server's end of the stream after the last ack."""

CHECKPOINT_SECONDS = 1.0
"""Time between two writes of the checkpoint file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """The parameters of ``Client.ingest``, which says what they mean."""

    collection: str
    stream: str | None
    resume: bool
    checkpoint: str | PathLike[str] | None
    dry_run: bool
    progress: Callable[[IngestSummary], None] | None
    reconnect_seconds: float


class IngestRun:
    """The state of one ingest."""

    def __init__(self, options: IngestOptions, *, open_seconds: float, max_message_bytes: int) -> None:
        """Reads the checkpoint, if there is one.

        Args:
            open_seconds: longest time to make the first connection.
            max_message_bytes: largest message that can be sent.

        Raises:
            InvalidArgument: the options contradict each other.
            ResumeMismatch: the checkpoint is unreadable or of something else.
        """
        if options.resume and not options.stream:
            raise InvalidArgument("resume needs the name of the stream, or use a checkpoint", field="resume")
        if options.resume and options.checkpoint is not None:
            raise InvalidArgument("give resume or a checkpoint, not both", field="resume")
        if options.dry_run and (options.resume or options.checkpoint is not None):
            raise InvalidArgument("a dry run has nothing to resume", field="dry_run")
        self.options = options
        self.collection = checked_text(options.collection, "collection")
        self.stream = "" if options.dry_run else checked_text(options.stream or f"sdk-{uuid.uuid4()}", "stream")
        self._run_id = str(uuid.uuid4())
        self._path = None if options.checkpoint is None else Path(options.checkpoint)
        self._backoff = Backoff(reconnect_seconds=options.reconnect_seconds, open_seconds=open_seconds)
        self._max_message_bytes = max_message_bytes
        self._progress = Progress()
        self._base = 0
        self._durable_position = 0
        self._based = False
        self._next_index = 0
        self._skip = self._skipped_ids = 0
        self._window = Window()
        self._acks: deque[Ack] = deque()
        self._last_read: Ack | None = None
        self._exhausted = self._cut_off = self._draining = self._opened = False
        self._connections = self._first_position = 0
        self._searchable_sequence = 0
        self._started_at = time.monotonic()
        self._reported = True
        self._saved_at = 0.0
        self._load_checkpoint()

    def start_request(self) -> pb.IngestRequest:
        """The first message of a connection; forgets what was sent on the one before."""
        self._window.restart()
        self._draining = False
        self._opened = False
        return pb.IngestRequest(
            start=pb.IngestStart(
                collection=self.collection, stream=self.stream, dry_run=self.options.dry_run, run_id=self._run_id
            )
        )

    def receive(self, response: pb.IngestResponse) -> None:
        """Takes a message of the server.

        Raises:
            StreamLost: the server no longer has what it had acknowledged.
            StreamConflict: somebody else used the stream's name meanwhile.
            InternalError: the message breaks the protocol.
        """
        kind = response.WhichOneof("message")
        if kind == "started":
            self._receive_started(response.started)
        elif kind == "acks":
            self._receive_acks(response.acks)
        elif kind == "credit":
            self._window.grant(response.credit.tokens)
        elif kind == "draining":
            self._draining = True

    def _receive_started(self, started: pb.IngestStarted) -> None:
        last = started.last_durable_position
        self._opened = True
        self._window.grant(started.credit_tokens)
        self._connections += 1
        if self._connections == 1:
            # An earlier run under the same name may have gone further than this one.
            self._first_position = last
        self._backoff.opened(idle=not self._window)
        if started.max_message_bytes:
            self._max_message_bytes = min(self._max_message_bytes, started.max_message_bytes)
        if not self._based:
            self._based = True
            self._durable_position = last
            if self.options.resume:
                self._skip = last
            else:
                self._base = last
            self._save_checkpoint()
        elif last < self._durable_position:
            raise StreamLost(
                f"stream {self.stream!r} was durable up to {self._durable_position}, but the server has it only up to "
                f"{last}: its data was replaced; ingest again from the start",
                summary=self.summary(),
            )
        elif self._connections > 1 and last > max(self._base + self._next_index, self._first_position):
            raise StreamConflict(f"another client used stream {self.stream!r} meanwhile")

    def wants_operation(self) -> bool:
        """Whether the next operation should be read from the source."""
        if self._exhausted or not self._opened or self._draining:
            return False
        return self._window.has_room()

    def prepare(self, operation: object) -> Prepared | None:
        """Translates an operation; None if an earlier run settled it. Touches nothing that the sender uses."""
        if self._skip > self._next_index:
            self._skipped_ids = checksum(self._skipped_ids, id_of(operation))
            return None
        return prepare(operation, self._max_message_bytes)

    def add(self, prepared: Prepared | None) -> None:
        """Takes an operation as ``prepare`` left it.

        Raises:
            ResumeMismatch: it is the last one to be skipped, and their ids are not those in the checkpoint.
            InvalidArgument: the stream's last position was the last there is.
        """
        index = self._next_index
        self._next_index += 1
        if prepared is None:
            if self._path is not None and self._next_index == self._skip and self._skipped_ids != self._progress.ids:
                raise ResumeMismatch(
                    f"the first {self._skip} operations are not those that {self._path} was made for; "
                    "remove it to start from the beginning",
                    summary=self.summary(),
                )
            return
        position = self._base + index + 1
        if position >= 1 << 63:
            raise InvalidArgument("has no position left; use another name", field="stream")
        self._window.add(Pending(index, position, prepared))
        self._settle_unsendable()

    def exhaust(self) -> None:
        """There are no more operations.

        Raises:
            ResumeMismatch: there were fewer than an earlier run settled.
        """
        self._exhausted = True
        if self._next_index < self._skip:
            raise ResumeMismatch(
                f"stream {self.stream!r} has settled {self._skip} operations, but there were only {self._next_index}: "
                "they are not those of the run to resume",
                summary=self.summary(),
            )

    def stop_reading(self) -> None:
        """The source failed: no operation follows, and the run is not complete."""
        self._exhausted = self._cut_off = True

    def take_batch(self) -> pb.IngestRequest | None:
        """The next message to send; None when there is nothing, or no credit."""
        if not self._opened or self._draining:
            return None
        # Half, because the fields around each operation count too.
        batch = self._window.take_batch(min(MAX_BATCH_BYTES, self._max_message_bytes // 2))
        return None if batch is None else pb.IngestRequest(batch=batch)

    def sent_all(self) -> bool:
        """Whether nothing more will be sent on this connection."""
        return self._draining or (self._exhausted and self._window.all_sent())

    def _receive_acks(self, acks: pb.IngestAcks) -> None:
        self._searchable_sequence = max(self._searchable_sequence, acks.searchable_sequence)
        for proto in acks.acks:
            item = self._window.first()
            if item is None or proto.position < item.position:
                continue
            if proto.position != item.position:
                raise InternalError(f"the server acknowledged position {proto.position} before {item.position}")
            self._settle(ack_from_proto(proto, item.index))
            if proto.status == pb.ACK_STATUS_DURABLE:
                self._durable_position = item.position
            self._settle_unsendable()

    def _settle_unsendable(self) -> None:
        while (item := self._window.first()) is not None and item.operation.proto is None:
            operation = item.operation
            self._settle(Ack(index=item.index, id=operation.id, status=AckStatus.FAILED, error=operation.error))

    def _settle(self, ack: Ack) -> None:
        self._window.settle()
        self._acks.append(ack)
        self._backoff.acked()

    def next_ack(self, *, read: bool) -> Ack | None:
        """The next ack for the caller, if there is one; the one before now counts as settled.

        Args:
            read: whether the caller is shown the ack.
        """
        if self._last_read is not None:
            self._progress.settle(self._last_read, read=True)
            self._last_read = None
        if not self._acks:
            if not self._reported:
                self._report()
            return None
        self._reported = False
        ack = self._acks.popleft()
        if read:
            # Settled when the caller asks for the next one: until then it may die with this one.
            self._last_read = ack
        else:
            self._progress.settle(ack, read=False)
        return ack

    def _report(self) -> None:
        self._reported = True
        if time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS:
            self._save_checkpoint()
        if self.options.progress is not None:
            self.options.progress(self.summary())

    def done(self) -> bool:
        """Whether every operation has its ack."""
        return self._exhausted and not self._window

    def summary(self) -> IngestSummary:
        """The totals so far."""
        progress = self._progress
        return IngestSummary(
            acked=sum(progress.counts.values()),
            **{status.value: progress.counts[status] for status in AckStatus},
            skipped=min(self._skip, self._next_index) if self.options.resume else 0,
            failures=tuple(progress.failures),
            tokens=progress.tokens,
            truncated_tokens=progress.truncated_tokens,
            passages=progress.passages,
            estimated_seconds=progress.estimated_seconds,
            searchable_sequence=self._searchable_sequence,
            reconnects=max(0, self._connections - 1),
            seconds=time.monotonic() - self._started_at,
            stream=self.stream,
            complete=self.done() and not self._cut_off and not self._acks and self._last_read is None,
        )

    def complete(self) -> None:
        """Ends a run whose operations all have their acks: its checkpoint is no longer needed."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Checks how the run ended.

        Raises:
            IngestInterrupted: it was closed before its end.
            IngestFailed: there are failures that the caller was not shown.
        """
        progress = self._progress
        if not self.summary().complete:
            raise IngestInterrupted("the ingest was closed before its end", summary=self.summary())
        if progress.unread_failed:
            first = progress.failures[0]
            raise IngestFailed(
                f"{progress.unread_failed} of {sum(progress.counts.values())} operations failed, as {first.id!r}: "
                f"{first.error}",
                summary=self.summary(),
            )

    def keep_place(self) -> None:
        """Writes the checkpoint now: the run stops before its end."""
        if self._based:
            self._save_checkpoint()

    def opening_seconds(self) -> float | None:
        """How long to wait for the server's next message; limited for the first one only."""
        return None if self._opened else self._backoff.open_seconds

    def not_opened(self) -> DeadlineExceeded:
        """The error of a server that did not answer the start in time."""
        return DeadlineExceeded(f"the server did not open the stream within {self._backoff.open_seconds:g} s")

    def retry_seconds(self, error: grpc.RpcError | DeadlineExceeded | None) -> float:
        """How long to wait before the next connection, after one ended.

        Args:
            error: what it ended with; None when the server ended it, as it does on shutdown.

        Raises:
            IngestInterrupted: the server has been away for too long.
            ShortlistError: the error is not one that another connection can mend.
        """
        cause: ShortlistError
        if error is None:
            cause = Unavailable("the server ended the stream before its last acknowledgement")
        else:
            cause = error if isinstance(error, DeadlineExceeded) else from_rpc_error(error)
        # Not StreamConflict: another client has the stream now, and taking it back would start a tug of war.
        mendable = isinstance(cause, Unavailable | Overloaded | DeadlineExceeded)
        if isinstance(error, grpc.RpcError) and not mendable and not is_broken_connection(error):
            raise cause from error
        self._backoff.broke()
        if self._backoff.never_opened():
            raise cause from (None if cause is error else error)
        if self._backoff.exhausted():
            raise IngestInterrupted(
                f"no acknowledgement for {self._backoff.reconnect_seconds:g} s: {cause.message}; run again to go on",
                summary=self.summary(),
            ) from cause
        return self._backoff.wait_seconds(cause.retry_after_seconds)

    def _load_checkpoint(self) -> None:
        saved = Checkpoint.load(self._path) if self._path is not None else None
        if saved is None:
            return
        if saved.collection != self.collection or (self.options.stream not in (None, saved.stream)):
            raise ResumeMismatch(
                f"{self._path} is the checkpoint of stream {saved.stream!r} in collection {saved.collection!r}",
                summary=self.summary(),
            )
        self.stream, self._base, self._durable_position = saved.stream, saved.base, saved.durable_position
        self._progress = saved.progress
        self._skip = saved.progress.settled
        self._based = True

    def _save_checkpoint(self) -> None:
        self._saved_at = time.monotonic()
        if self._path is not None:
            Checkpoint(
                collection=self.collection,
                stream=self.stream,
                base=self._base,
                durable_position=self._durable_position,
                progress=self._progress,
            ).save(self._path)
