"""An ingest for asyncio: ``IngestRun`` over gRPC's asyncio stream.

Everything happens in one event loop: the caller's task reads the operations and gets the acks, and per connection one
task sends and one collects, so the run needs no lock. ``_sync.ingest`` is the blocking twin.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from shortlist._channel import Connection
from shortlist._document_types import Deletion, Document
from shortlist._errors import DeadlineExceeded, ServerUnavailable
from shortlist._ingest_run import END_SECONDS, INGEST_METHOD, IngestOptions, IngestRun
from shortlist._ingest_types import Ack, IngestSummary
from shortlist.v1 import document_service_pb2 as pb

Operations = Iterable[Document | Deletion | Mapping[str, Any]] | AsyncIterable[Document | Deletion | Mapping[str, Any]]
"""What can be ingested; an async iterable does not hold up the event loop."""


class AsyncIngest:
    """A run of ``AsyncClient.ingest``: iterate over it with ``async for``, or await ``finish()``; then see ``summary``.

    Acks come in the order of the operations, one for each, failed ones too: those that were iterated over have been
    shown to the caller, those that ``finish()`` went over have not, and make it raise. In an ``async with`` block the
    end of the block calls ``finish()``. Breaks and restarts of the server are waited out, and everything unacknowledged
    is sent again.

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
        channel: grpc.aio.Channel,
        operations: Operations,
        options: IngestOptions,
    ) -> None:
        """Made by ``AsyncClient.ingest``."""
        # First, because __del__ reads it.
        self._ended = True
        self._connection = connection
        self._channel = channel
        self._source = _Source(operations)
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

    async def finish(self, *, check: bool = True) -> IngestSummary:
        """Sends everything, waits for every ack, and returns the totals.

        Args:
            check: raise when there are failures that were not iterated over.

        Raises:
            IngestFailed: documents failed; its ``summary`` has them. And what the class names.
        """
        while await self._next(read=False) is not None:
            pass
        if check:
            self._run.check()
        return self._run.summary()

    async def close(self) -> None:
        """Stops the run where it is; what is acked stays. Harmless when it has ended."""
        if not self._ended:
            await self._end()
            self._run.keep_place()

    def __aiter__(self) -> AsyncIterator[Ack]:
        return self

    async def __anext__(self) -> Ack:
        ack = await self._next(read=True)
        if ack is None:
            raise StopAsyncIteration
        return ack

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.finish()
        else:
            await self.close()

    def __del__(self) -> None:
        if not self._ended:
            warnings.warn(
                "an ingest was not used to its end: iterate over it, or await finish() or close()",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )
            if self._link is not None:
                self._link.abandon_later()

    async def _next(self, *, read: bool) -> Ack | None:
        if self._failure is not None:
            raise self._failure
        try:
            while True:
                ack = self._run.next_ack(read=read)
                if ack is not None or self._ended:
                    return ack
                if self._run.done():
                    await self._complete()
                else:
                    await self._advance()
        except BaseException as error:
            # A cancellation is over when it was caught: repeated later, it would cancel somebody else.
            self._failure = error if isinstance(error, Exception) else None
            await self.close()
            raise

    async def _complete(self) -> None:
        """Every operation read has its ack."""
        if self._link is not None:
            await self._link.wait_end(END_SECONDS)
        if self._source_error is not None:
            raise self._source_error
        await self._end()
        self._run.complete()

    async def _end(self) -> None:
        self._ended = True
        await self._source.close()
        if self._link is not None:
            link, self._link = self._link, None
            await link.cancel()

    async def _advance(self) -> None:
        """One step: connect, or read an operation, or take what the server sent."""
        self._connection.check()
        if self._link is None:
            self._link = _Link(self._channel, self._connection, self._run)
        link = self._link
        reading = self._run.wants_operation()
        if reading:
            # Comes back early when the server sends something while the source has nothing yet.
            await self._read_operation(link)
        event = await link.event(wait=not reading, seconds=self._run.opening_seconds())
        if isinstance(event, pb.IngestResponse):
            self._run.receive(event)
            link.changed.set()
        elif event is not None:
            await self._reconnect(event.error)
        elif not reading:
            await self._reconnect(self._run.not_opened())

    async def _read_operation(self, link: _Link) -> None:
        try:
            found, operation = await self._source.next(link)
        except Exception as error:
            self._source_error = error
            self._run.stop_reading()
        else:
            if not found:
                return
            if operation is _Source.EXHAUSTED:
                self._run.exhaust()
            else:
                self._run.add(self._run.prepare(operation))
        link.changed.set()

    async def _reconnect(self, error: grpc.RpcError | DeadlineExceeded | None) -> None:
        assert self._link is not None
        link, self._link = self._link, None
        await link.cancel()
        self._connection.check()
        try:
            seconds = self._run.retry_seconds(error)
        except ServerUnavailable as unavailable:
            raise await asyncio.to_thread(self._connection.explained, unavailable) from error
        await asyncio.sleep(seconds)


class _Source:
    """The operations, from a plain or an async iterable."""

    EXHAUSTED = object()

    def __init__(self, operations: Operations) -> None:
        self._plain = None if isinstance(operations, AsyncIterable) else iter(operations)
        self._async = aiter(operations) if isinstance(operations, AsyncIterable) else None
        self._reading: asyncio.Task[object] | None = None

    async def next(self, link: _Link) -> tuple[bool, object]:
        """Whether there is one, and the next operation or EXHAUSTED; not, when the server sent something meanwhile."""
        if self._plain is not None:
            # Reading a list never waits, and the connection's tasks need their turns.
            await asyncio.sleep(0)
            return True, next(self._plain, self.EXHAUSTED)
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        arrived = asyncio.ensure_future(link.arrived.wait())
        try:
            await asyncio.wait({self._reading, arrived}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrived.cancel()
        if not self._reading.done():
            return False, None
        reading, self._reading = self._reading, None
        return True, reading.result()

    async def close(self) -> None:
        """Stops a read in progress."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            self._reading = None

    async def _read(self) -> object:
        assert self._async is not None
        return await anext(self._async, self.EXHAUSTED)


class _End:
    """The end of a connection's messages, with what it ended with."""

    def __init__(self, error: grpc.RpcError | None) -> None:
        self.error = error


class _Link:
    """One connection of a run."""

    def __init__(self, channel: grpc.aio.Channel, connection: Connection, run: IngestRun) -> None:
        self.changed = asyncio.Event()
        self.arrived = asyncio.Event()
        self._run = run
        self._events: asyncio.Queue[pb.IngestResponse | _End] = asyncio.Queue()
        start = run.start_request()
        method = channel.stream_stream(INGEST_METHOD, pb.IngestRequest.SerializeToString, pb.IngestResponse.FromString)
        self._call: Any = method(metadata=connection.metadata)
        self._sender = asyncio.ensure_future(self._send(start))
        self._collector = asyncio.ensure_future(self._collect())

    async def event(self, *, wait: bool, seconds: float | None) -> pb.IngestResponse | _End | None:
        """The next message or the end; None when there is none yet and it is not to be waited for, or not longer."""
        if self._events.empty() and not wait:
            return None
        try:
            event = await asyncio.wait_for(self._events.get(), seconds)
        except TimeoutError:
            return None
        if self._events.empty():
            self.arrived.clear()
        return event

    async def wait_end(self, seconds: float) -> None:
        """Waits for the server to end the stream, so that the stream's name is free when the run returns."""
        await asyncio.wait({self._collector}, timeout=seconds)

    async def cancel(self) -> None:
        """Ends the connection; harmless when it has ended."""
        self.abandon()
        await asyncio.wait({self._sender, self._collector})

    def abandon(self) -> None:
        """As ``cancel``, without waiting for the end."""
        self._call.cancel()
        self._sender.cancel()

    def abandon_later(self) -> None:
        """As ``abandon``, for a finaliser, which runs in any thread."""
        with contextlib.suppress(RuntimeError):
            self._sender.get_loop().call_soon_threadsafe(self.abandon)

    async def _send(self, start: pb.IngestRequest) -> None:
        # A write returns when the message is on its way: what has come together meanwhile is one batch. A broken
        # connection is the collector's to report.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await self._call.write(start)
            while True:
                self.changed.clear()
                batch = self._run.take_batch()
                if batch is not None:
                    await self._call.write(batch)
                elif self._run.sent_all():
                    await self._call.done_writing()
                    return
                else:
                    await self.changed.wait()

    async def _collect(self) -> None:
        error: grpc.RpcError | None = None
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._put(response)
        except grpc.RpcError as raised:
            error = raised
        finally:
            self._put(_End(error))

    def _put(self, event: pb.IngestResponse | _End) -> None:
        self._events.put_nowait(event)
        self.arrived.set()
