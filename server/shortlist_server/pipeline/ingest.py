"""An ingest stream: read a window, cut, embed, commit, acknowledge.

``ingester`` opens sessions; a session turns operations into acknowledgements, in order. While one window is committed,
the next is embedded and the one after that is read. The session reads no further, so memory is bounded whatever the
client sends. Coroutines run on the server's event loop; blocking work runs in the composition root's thread pool.

Invariant: a DURABLE acknowledgement leaves only after its commit is synced to disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from shortlist_server.domain import (
    DeadLetter,
    Deletion,
    Document,
    NewPassage,
    StreamPosition,
    Upsert,
)
from shortlist_server.errors import (
    DocumentTooLarge,
    InvalidArgument,
    InvalidVector,
    Overloaded,
    ShortlistError,
)
from shortlist_server.inference.base import (
    CutText,
    EmbedderService,
    PassageEmbedding,
    PassageText,
)
from shortlist_server.pipeline.content import client_vectors, content_hash
from shortlist_server.pipeline.operations import Ack, AckStatus, Operation, Prepared
from shortlist_server.pipeline.windows import WindowReader
from shortlist_server.storage.base import CollectionStore, Lease

T = TypeVar("T")

RETRY_SECONDS = 0.1
"""Wait before a full queue is tried again, where the queue does not say how long."""

WINDOWS_AHEAD = 1
"""Windows that wait, embedded or being embedded, while another is committed."""


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
        embedder: EmbedderService | None,
        threads: Executor,
        *,
        stream: str,
        number: int,
        position: int,
        dry_run: bool,
        max_document_tokens: int,
    ) -> None:
        self.lease = held
        self.collection = held.collection
        self.stream = stream
        self.number = number
        self.durable_position = position
        self.draining = False
        self._embedder = embedder
        self._threads = threads
        self._dry_run = dry_run
        self._max_document_tokens = max_document_tokens
        self._seen = position
        self._in_flight: Counter[str] = Counter()
        self._stop = asyncio.Event()
        self._error: ShortlistError | None = None
        self._seconds_per_token = 0.0

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
                embedding = asyncio.create_task(self._embed(window))
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

    async def _embed(self, window: Sequence[Operation]) -> list[Prepared]:
        """Does everything that precedes the commit; each operation fails alone."""
        prepared = [Prepared(operation=operation) for operation in window]
        await self._in_thread(self._prepare, prepared)
        todo = [item for item in prepared if item.settled is None and item.cut is not None and item.change is None]
        if not todo or self._embedder is None:
            return prepared
        passages = [passage for item in todo if item.cut for passage in item.cut.passages]
        if self._dry_run:
            passages = passages[: 0 if self._seconds_per_token else 8]
        begin = time.perf_counter()
        embedded = iter(await self._embed_passages(self._embedder, passages))
        if passages:
            self._seconds_per_token = (time.perf_counter() - begin) / sum(passage.tokens for passage in passages)
        if not self._dry_run:
            for item in todo:
                item.join([next(embedded) for _ in item.cut.passages] if item.cut else [])
        return prepared

    async def _embed_passages(
        self, embedder: EmbedderService, passages: Sequence[PassageText]
    ) -> Sequence[PassageEmbedding | Exception]:
        """Embeds, and waits while other streams fill the queue: that slows a stream down instead of refusing it."""
        while True:
            try:
                return await embedder.embed_passages(
                    passages,
                    dimension=self.collection.config.dimension,
                    token_vectors=embedder.info.token_vectors,
                )
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_seconds or RETRY_SECONDS)

    def _prepare(self, prepared: Sequence[Prepared]) -> None:
        """Settles replays, refused operations and unchanged documents; cuts the rest. Blocking."""
        counts = Counter(item.operation.id for item in prepared)
        replays = [item for item in prepared if self.stream and item.operation.position <= self.durable_position]
        if replays:
            first, last = replays[0].operation.position, replays[-1].operation.position
            failures = self.collection.failures(self.stream, first, last)
            for item in replays:
                item.replay(failures.get(item.operation.position))
        for item in prepared:
            change = item.operation.change
            if item.replayed:
                continue
            if isinstance(change, ShortlistError):
                item.settle(AckStatus.FAILED, error=change)
            elif isinstance(change, Deletion):
                item.change = change
            else:
                item.hash = content_hash(change, self.collection.config)
        alone = {
            item.operation.id: item.hash
            for item in prepared
            if item.hash and counts[item.operation.id] == 1 and self._in_flight[item.operation.id] == 1
        }
        unchanged = self.collection.unchanged(alone) if alone else {}
        with_vectors = []
        for item in prepared:
            if not item.hash:
                continue
            if item.operation.id in unchanged:
                item.settle(AckStatus.UNCHANGED, sequence=unchanged[item.operation.id])
            elif isinstance(item.operation.change, Document) and item.operation.change.vector is not None:
                with_vectors.append((item, item.operation.change, item.operation.change.vector))
            else:
                try:
                    item.cut = self._cut(item)
                except ShortlistError as error:
                    item.settle(AckStatus.FAILED, error=error)
        vectors = client_vectors([vector for _, _, vector in with_vectors], self.collection.config.dimension)
        for (item, document, _), vector in zip(with_vectors, vectors, strict=True):
            if isinstance(vector, InvalidVector):
                item.settle(AckStatus.FAILED, error=vector)
            else:
                passage = NewPassage(start=0, end=len(document.text), vector=vector, tokens=0)
                item.change = Upsert(document=document, passages=[passage], content_hash=item.hash)

    def _cut(self, item: Prepared) -> CutText:
        document = item.operation.change
        assert isinstance(document, Document)
        if self._embedder is None:
            raise InvalidArgument("the collection has no embedder: give the document a vector", field="document.vector")
        config = self.collection.config
        cut = self._embedder.cut(document.title, document.text, config.chunking, config.overflow)
        tokens = sum(passage.tokens for passage in cut.passages)
        if tokens > self._max_document_tokens:
            raise DocumentTooLarge(
                f"the document has {tokens} tokens in {len(cut.passages)} passages, but may have at most "
                f"{self._max_document_tokens}: split it",
                field="document.text",
                metadata={"limit": str(self._max_document_tokens)},
            )
        return cut

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
            for item in pending:
                try:
                    await self._apply([item], (), None)
                except InvalidArgument as error:
                    item.settle(AckStatus.FAILED, error=error)
            refused = [failure for item in pending if (failure := item.failure(self.stream)) is not None]
            await self._apply([], [*failures, *refused], mark)

    async def _apply(
        self, pending: Sequence[Prepared], failures: Sequence[DeadLetter], mark: StreamPosition | None
    ) -> None:
        if self._error is not None:
            raise self._error
        changes = [item.change for item in pending if item.change is not None]
        commit = await asyncio.wrap_future(self.collection.commit(changes, mark, failures))
        for item, sequence, superseded in zip(pending, commit.sequences, commit.superseded, strict=True):
            item.settle(AckStatus.SUPERSEDED if superseded else AckStatus.DURABLE, sequence=sequence)

    def _dry(self, item: Prepared) -> Ack:
        tokens = sum(passage.tokens for passage in item.cut.passages) if item.cut else 0
        return item.ack(AckStatus.VALID, estimated_seconds=tokens * self._seconds_per_token)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs blocking work in a thread, within the call's context: its log lines and spans belong to the call."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, function, *arguments)
