"""An ingest stream: read a window, cut, embed, commit, acknowledge.

``ingester`` opens sessions; a session turns operations into acknowledgements, in order. While one window is committed,
the next is embedded and the one after that is read. The session reads no further, so memory is bounded whatever the
client sends. Coroutines run on the server's event loop; blocking work runs in the composition root's thread pool.

Invariant: a DURABLE acknowledgement leaves only after its commit is synced to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from shortlist_server.domain import DeadLetter, StreamPosition
from shortlist_server.errors import InvalidArgument, ShortlistError, Unavailable
from shortlist_server.pipeline.operations import Ack, AckStatus, Operation, Prepared
from shortlist_server.pipeline.preparation import Preparation
from shortlist_server.pipeline.windows import WindowReader
from shortlist_server.storage.base import CollectionStore, GenerationChanged, Lease

WINDOWS_AHEAD = 1
"""Windows that wait, embedded or being embedded, while another is committed."""

_MOST_SWITCHES = 8
"""How often a window is embedded again because another generation began to serve meanwhile."""


class IngestSession:
    """One stream of operations into one collection.

    Attributes:
        number: a session requested later has a higher number.
        collection, lease: the collection; the lease keeps it open as long as the session.
        durable_position: the stream's last durable position; all operations up to it are settled.
        draining: whether the session ends because the server is stopping.
    """

    def __init__(
        self,
        held: Lease[CollectionStore],
        preparation: Preparation,
        *,
        stream: str,
        number: int,
        position: int,
        dry_run: bool,
    ) -> None:
        self.lease = held
        self.collection = held.collection
        self.stream = stream
        self.number = number
        self.durable_position = position
        self.draining = False
        self._preparation = preparation
        self._dry_run = dry_run
        self._seen = position
        self._in_flight: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self._error: ShortlistError | None = None

    def drain(self) -> None:
        """Stops reading; ``run`` ends after the operations that it has begun."""
        self.draining = True
        self._stop.set()

    @property
    def ended(self) -> bool:
        """Whether ``end`` was called, because another session took the stream."""
        return self._error is not None

    def end(self, error: ShortlistError) -> None:
        """Ends ``run`` with this error. From now on the session commits nothing, however late its client notices."""
        self._error = error
        self._stop.set()

    async def run(self, messages: AsyncIterator[Sequence[Operation]]) -> AsyncIterator[Sequence[Ack]]:
        """Applies operations, yielding acknowledgements in the order of positions, a window at a time.

        Raises:
            InvalidArgument: positions do not increase; earlier operations are applied and acknowledged.
            StreamConflict: another client took the stream.
        """
        windows: asyncio.Queue[asyncio.Task[list[Prepared]] | None] = asyncio.Queue(maxsize=WINDOWS_AHEAD)
        feeding = asyncio.create_task(self._feed(messages, windows))
        begun: asyncio.Task[list[Prepared]] | None = None
        try:
            while (begun := await windows.get()) is not None:
                prepared = await begun
                yield await self._commit(prepared)
                self._in_flight.subtract(item.operation.id for item in prepared)
                self._in_flight = +self._in_flight
            await feeding
            if self._error is not None:
                raise self._error
        finally:
            feeding.cancel()
            while not windows.empty():
                if (waiting := windows.get_nowait()) is not None:
                    waiting.cancel()
            if begun is not None:
                begun.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await feeding

    async def _feed(
        self,
        messages: AsyncIterator[Sequence[Operation]],
        windows: asyncio.Queue[asyncio.Task[list[Prepared]] | None],
    ) -> None:
        """Divides what arrives into windows, and begins to embed each as soon as there is room."""
        reader = WindowReader(messages, self._stop)
        try:
            while window := await reader.window():
                self._check_order(window)
                self._in_flight.update(operation.id for operation in window)
                embedding = asyncio.create_task(
                    self._preparation.prepare(window, position=self.durable_position, in_flight=self._in_flight)
                )
                try:
                    await windows.put(embedding)
                except asyncio.CancelledError:
                    embedding.cancel()
                    raise
        finally:
            await reader.close()
            await windows.put(None)

    def _check_order(self, window: Sequence[Operation]) -> None:
        for operation in window:
            if operation.position <= max(self._seen, 0) and operation.position > self.durable_position:
                raise InvalidArgument(
                    f"position {operation.position} follows {self._seen}, but positions must increase", field="position"
                )
            if operation.position < 1:
                raise InvalidArgument("positions begin at 1", field="position")
            self._seen = max(self._seen, operation.position)

    async def _commit(self, prepared: Sequence[Prepared]) -> list[Ack]:
        if self._dry_run:
            return [item.settled or self._dry(item) for item in prepared]
        pending = [item for item in prepared if item.settled is None]
        failures = [failure for item in prepared if (failure := item.failure(self.stream)) is not None]
        position = max(item.operation.position for item in prepared)
        if pending or failures or (self.stream and position > self.durable_position):
            mark = StreamPosition(stream=self.stream, position=position) if self.stream else None
            await self._commit_pending(pending, failures, mark)
            self.durable_position = max(position, self.durable_position) if self.stream else 0
        return [item.settled for item in prepared if item.settled is not None]

    async def _commit_pending(
        self, pending: Sequence[Prepared], failures: Sequence[DeadLetter], mark: StreamPosition | None
    ) -> None:
        """Commits a window. If the store rejects its content, commits one operation at a time.

        Raises:
            ShortlistError: the store can take nothing, for instance because the disk is full. The stream ends there:
                its position must never pass an operation that is not settled.
        """
        try:
            await self._apply(pending, failures, mark)
        except InvalidArgument:
            for item in [item for item in pending if item.settled is None]:
                try:
                    await self._apply([item], (), None)
                except InvalidArgument as error:
                    item.settle(AckStatus.FAILED, error=error)
            refused = [failure for item in pending if (failure := item.failure(self.stream)) is not None]
            await self._apply([], [*failures, *refused], mark)

    async def _apply(
        self, pending: Sequence[Prepared], failures: Sequence[DeadLetter], mark: StreamPosition | None
    ) -> None:
        """Commits at once. Embeds again if another generation has begun to serve since the window was embedded."""
        for attempt in range(1, _MOST_SWITCHES + 1):
            if self._error is not None:
                raise self._error
            changes = [item.change for item in pending if item.change is not None]
            try:
                commit = await asyncio.wrap_future(self.collection.commit(changes, mark, failures))
            except GenerationChanged as error:
                if attempt == _MOST_SWITCHES:
                    raise Unavailable("another generation began to serve again and again; repeat later") from error
                await self._preparation.embed(pending)
                refused = [failure for item in pending if (failure := item.failure(self.stream)) is not None]
                failures = [*failures, *refused]
                pending = [item for item in pending if item.settled is None]
                continue
            for item, sequence, superseded in zip(pending, commit.sequences, commit.superseded, strict=True):
                item.settle(AckStatus.SUPERSEDED if superseded else AckStatus.DURABLE, sequence=sequence)
            return

    def _dry(self, item: Prepared) -> Ack:
        tokens = sum(passage.tokens for passage in item.cut.passages) if item.cut else 0
        return item.ack(AckStatus.VALID, estimated_seconds=tokens * self._preparation.seconds_per_token)
