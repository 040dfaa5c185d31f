"""A blocking ingest: ``IngestRun`` over gRPC's blocking stream.

The caller's thread reads the operations and gets the acks; per connection one thread of gRPC takes messages to send and
one of ours collects what arrives. The lock guards the run between the caller and the sender; the collector touches only
its queue. An ``Ingest`` itself belongs to one thread.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from shortlist._channel import Connection
from shortlist._document_types import Deletion, Document
from shortlist._errors import DeadlineExceeded, ServerUnavailable
from shortlist._ingest_run import END_SECONDS, INGEST_METHOD, IngestOptions, IngestRun
from shortlist._ingest_types import Ack, IngestSummary
from shortlist.v1 import document_service_pb2 as pb

Operations = Iterable[Document | Deletion | Mapping[str, Any]]
"""What can be ingested."""


class Ingest:
    """A run of ``Client.ingest``: iterate over it for the acks, or call ``finish()``; then look at ``summary``.

    Acks come in the order of the operations, one for each, failed ones too: those that were iterated over have been
    shown to the caller, those that ``finish()`` went over have not, and make it raise. In a ``with`` block the end of
    the block calls ``finish()``. Breaks and restarts of the server are waited out, and everything unacknowledged is
    sent again.

    Iterating and ``finish()`` raise what the source of the operations raised (after the acks of what was read before
    it), and:

    Raises:
        CollectionNotFound: there is no collection of that name.
        InvalidArgument: the parameters are wrong; a wrong document is a failed ack instead.
        ServerUnavailable: no server answered at all.
        IngestInterrupted: the server stayed away for longer than ``reconnect_seconds``.
        StreamConflict: another client opened the stream of this name, and has it now.
        StreamLost, ResumeMismatch: the stream or checkpoint is not what it was; see there.
    """

    def __init__(
        self,
        connection: Connection,
        channel: grpc.Channel,
        operations: Operations,
        options: IngestOptions,
    ) -> None:
        """Made by ``Client.ingest``."""
        # First, because __del__ reads it.
        self._ended = True
        self._connection = connection
        self._channel = channel
        self._source = iter(operations)
        self._source_error: Exception | None = None
        self._failure: Exception | None = None
        self._run = IngestRun(
            options, open_seconds=connection.timeout_seconds, max_message_bytes=connection.max_message_bytes
        )
        self._link: _Link | None = None
        self._ended = False

    @property
    def summary(self) -> IngestSummary:
        """The totals so far; after an error too."""
        return self._run.summary()

    @property
    def stream(self) -> str:
        """The stream's name, to resume by."""
        return self._run.stream

    def finish(self, *, check: bool = True) -> IngestSummary:
        """Sends everything, waits for every ack, and returns the totals.

        Args:
            check: raise when there are failures that were not iterated over.

        Raises:
            IngestFailed: documents failed; its ``summary`` has them. And what the class names.
        """
        while self._next(read=False) is not None:
            pass
        if check:
            self._run.check()
        return self._run.summary()

    def close(self) -> None:
        """Stops the run where it is; what is acked stays. Harmless when it has ended."""
        if not self._ended:
            self._end()
            self._run.keep_place()

    def __iter__(self) -> Iterator[Ack]:
        return self

    def __next__(self) -> Ack:
        ack = self._next(read=True)
        if ack is None:
            raise StopIteration
        return ack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def __del__(self) -> None:
        if not self._ended:
            warnings.warn(
                "an ingest was not used to its end: iterate over it, or call finish() or close()",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )
            if self._link is not None:
                self._link.abandon()

    def _next(self, *, read: bool) -> Ack | None:
        if self._failure is not None:
            raise self._failure
        try:
            while True:
                ack = self._run.next_ack(read=read)
                if ack is not None or self._ended:
                    return ack
                if self._run.done():
                    self._complete()
                else:
                    self._advance()
        except BaseException as error:
            # A cancellation is over when it was caught: repeated later, it would cancel somebody else.
            self._failure = error if isinstance(error, Exception) else None
            self.close()
            raise

    def _complete(self) -> None:
        """Every operation read has its ack."""
        if self._link is not None:
            self._link.wait_end(END_SECONDS)
        if self._source_error is not None:
            raise self._source_error
        self._end()
        self._run.complete()

    def _end(self) -> None:
        self._ended = True
        if self._link is not None:
            self._link.cancel()
            self._link = None

    def _advance(self) -> None:
        """One step: connect, or read an operation, or take what the server sent."""
        self._connection.check()
        if self._link is None:
            self._link = _Link(self._channel, self._connection, self._run)
        reading = self._run.wants_operation()
        if reading:
            self._read_operation(self._link)
        event = self._link.event(wait=not reading, seconds=self._run.opening_seconds())
        if isinstance(event, pb.IngestResponse):
            with self._link.changed:
                self._run.receive(event)
                self._link.changed.notify()
        elif event is not None:
            self._reconnect(event.error)
        elif not reading:
            self._reconnect(self._run.not_opened())

    def _read_operation(self, link: _Link) -> None:
        try:
            operation = next(self._source)
        except StopIteration:
            with link.changed:
                self._run.exhaust()
                link.changed.notify()
            return
        except Exception as error:
            self._source_error = error
            with link.changed:
                self._run.stop_reading()
                link.changed.notify()
            return
        prepared = self._run.prepare(operation)
        with link.changed:
            self._run.add(prepared)
            link.changed.notify()

    def _reconnect(self, error: grpc.RpcError | DeadlineExceeded | None) -> None:
        assert self._link is not None
        self._link.cancel()
        self._link = None
        self._connection.check()
        try:
            seconds = self._run.retry_seconds(error)
        except ServerUnavailable as unavailable:
            raise self._connection.explained(unavailable) from error
        time.sleep(seconds)


class _End:
    """The end of a connection's messages, with what it ended with."""

    def __init__(self, error: grpc.RpcError | None) -> None:
        self.error = error


class _Link:
    """One connection of a run."""

    def __init__(self, channel: grpc.Channel, connection: Connection, run: IngestRun) -> None:
        self.changed = threading.Condition()
        self._run = run
        self._closed = False
        self._events: queue.SimpleQueue[pb.IngestResponse | _End] = queue.SimpleQueue()
        start = run.start_request()
        method = channel.stream_stream(INGEST_METHOD, pb.IngestRequest.SerializeToString, pb.IngestResponse.FromString)
        self._call: Any = method(self._requests(start), metadata=connection.metadata)
        self._collector = threading.Thread(target=self._collect, name="shortlist-ingest", daemon=True)
        self._collector.start()

    def event(self, *, wait: bool, seconds: float | None) -> pb.IngestResponse | _End | None:
        """The next message or the end; None when there is none yet and it is not to be waited for, or not longer."""
        try:
            return self._events.get(block=wait, timeout=seconds)
        except queue.Empty:
            return None

    def wait_end(self, seconds: float) -> None:
        """Waits for the server to end the stream, so that the stream's name is free when the run returns."""
        self._collector.join(seconds)

    def cancel(self) -> None:
        """Ends the connection; harmless when it has ended."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._call.cancel()

    def abandon(self) -> None:
        """As ``cancel``, for a finaliser: takes no lock and makes no call; the sender sees it within a second."""
        self._closed = True

    def _requests(self, start: pb.IngestRequest) -> Iterator[pb.IngestRequest]:
        # Runs in gRPC's thread, which asks for a message when the one before is on its way: what has come together
        # meanwhile is one batch.
        yield start
        while True:
            with self.changed:
                batch = self._run.take_batch()
                while batch is None:
                    if self._closed or self._run.sent_all():
                        return
                    self.changed.wait(1.0)
                    batch = self._run.take_batch()
            yield batch

    def _collect(self) -> None:
        error: grpc.RpcError | None = None
        try:
            for response in self._call:
                self._events.put(response)
        except grpc.RpcError as raised:
            error = raised
        finally:
            self._events.put(_End(error))
            self.abandon()
