"""The job of one generation: builds what the generation lacks, and waits for more, until it serves or is dropped.

While one portion of documents is written, the next is embedded, behind the queries and behind ingest, and the one after
that is read and cut. The store keeps the cursor, so a job that ends at any instant goes on where it was.

A failure pauses the build, with the reason on disk, and the job tries again, later each time. A caller's pause lasts
until a caller ends it. A complete generation falls behind when writes leave it out; the job then builds what it missed.
Only the job tries a model again that has failed a write, and gives the generation back to writes when the model works.

A job belongs to the event loop; what blocks runs in the composition root's thread pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from shortlist_server.domain import Generation, GenerationState, ReindexProgress
from shortlist_server.errors import CollectionNotFound, GenerationNotFound, ShortlistError
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.reindex.portions import Built, embed, probe, read
from shortlist_server.pipeline.reindex.rates import Rates
from shortlist_server.pipeline.reindex.room import Room
from shortlist_server.pipeline.setbacks import Setbacks
from shortlist_server.pipeline.targets import Target, target_of
from shortlist_server.storage.base import CollectionStore, Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_SECONDS = 2.0
"""Time between two looks at whether a complete generation lags again. A look reads no disk."""

REFUSED_DOCUMENTS = 100
"""A build that refuses all of this many first documents has the wrong model or limit, and pauses."""

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0

_GONE = (GenerationNotFound, CollectionNotFound)


class Job:
    """Builds one generation.

    Attributes:
        generation: the generation as last seen; None before the first look.
    """

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        setbacks: Setbacks,
        room: Room,
        turns: asyncio.Semaphore,
        collection: str,
        number: int,
        *,
        max_document_tokens: int,
    ) -> None:
        self.collection = collection
        self.number = number
        self.generation: Generation | None = None
        self._store = store
        self._models = models
        self._threads = threads
        self._setbacks = setbacks
        self._room = room
        self._turns = turns
        self._max_document_tokens = max_document_tokens
        self._rates = Rates()
        self._trouble = ""
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._try_at = 0.0
        self._doubted = False
        self._look = asyncio.Event()
        self._moved = asyncio.Event()
        self._building: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run(), name=f"reindex {collection}/{number}")
        self._task.add_done_callback(lambda _: self._moved.set())

    @property
    def ended(self) -> bool:
        """Whether the generation is gone or serves, or the job was stopped."""
        return self._task.done()

    def look(self) -> None:
        """Makes the job look at its generation now, and ends a pause that the job made itself."""
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._try_at = 0.0
        self._look.set()

    def interrupt(self) -> None:
        """Ends what the job is doing, and makes it look at its generation."""
        if self._building is not None:
            self._building.cancel()
        self.look()

    async def stop(self) -> None:
        """Ends the job; the generation stays as it is."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def moved(self, timeout_seconds: float) -> None:
        """Waits for progress or the end of the job, at most for the time given."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._moved.wait()
        if not self.ended:
            self._moved.clear()

    def progress(self) -> ReindexProgress | None:
        """The progress of the build; None before the first look. Any thread."""
        generation = self.generation
        if generation is None:
            return None
        at = generation.progress
        paused = generation.problem or at.paused or ("" if at.complete else self._trouble)
        documents, tokens = (0.0, 0.0) if paused or at.complete else self._rates.now()
        left = max(at.total_documents - at.done_documents, 0)
        return ReindexProgress(
            done_documents=at.done_documents,
            total_documents=at.total_documents,
            done_tokens=at.done_tokens,
            failed_documents=at.failed_documents,
            documents_per_second=documents,
            tokens_per_second=tokens,
            remaining_seconds=0.0 if at.complete else left / documents if documents else None,
            disk_bytes=generation.disk_bytes,
            paused=paused,
        )

    async def _run(self) -> None:
        try:
            while await self._turn():
                pass
        except _GONE:
            pass
        except Exception:
            logger.exception("the build of generation %d of collection '%s' ended", self.number, self.collection)
            return
        self._setbacks.forget(self.collection, self.number)

    async def _turn(self) -> bool:
        """Looks at the generation, and builds or waits. Returns whether there may ever be more to do."""
        try:
            generation = await self._generation()
            if generation is None:
                return False
            if generation.problem or generation.progress.paused_by_user or generation.progress.complete:
                if not generation.problem:
                    await self._try_model(generation)
                await self._wait(POLL_SECONDS)
                return True
            if await self._done(self._build(generation)):
                self._retry_seconds = FIRST_RETRY_SECONDS
                # If it still lacks documents, they were left out by writes since it looked.
                await self._wait(FIRST_RETRY_SECONDS)
        except _GONE:
            raise
        except Exception as error:
            await self._pause(error)
            await self._wait(self._retry_seconds)
            self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)
        return True

    async def _try_model(self, generation: Generation) -> None:
        """Gives a generation that writes leave out back to them if its model works; it has nothing to build now."""
        if (
            not self._setbacks.leaves_out(self.collection, self.number)
            or self._setbacks.holds(self.collection, self.number)
            or time.monotonic() < self._try_at
        ):
            return
        try:
            if await self._done(self._probe(generation)):
                self._setbacks.give_back(self.collection, self.number)
                self._retry_seconds = FIRST_RETRY_SECONDS
        except _GONE:
            raise
        except Exception as error:
            # No pause: the generation lacks nothing, or a caller paused the build.
            logger.info("collection '%s': writes leave out generation %d: %s", self.collection, self.number, error)
            self._try_at = time.monotonic() + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, LONGEST_RETRY_SECONDS)

    async def _probe(self, generation: Generation) -> None:
        await probe(await self._target(generation))

    async def _target(self, generation: Generation) -> Target:
        # Not leased: while the model is missing or fails, retries must not keep the collection open for ever.
        return await self._in_thread(lambda: target_of(self._store.find(self.collection), generation, self._models))

    async def _done(self, work: Coroutine[None, None, None]) -> bool:
        """Does something that ``interrupt`` ends; returns False if it was interrupted. Raises what the work raises."""
        building = self._building = asyncio.create_task(work)
        try:
            await asyncio.wait({building})
        finally:
            building.cancel()
            await asyncio.wait({building})
            self._building = None
        if building.cancelled():
            return False
        building.result()
        return True

    async def _generation(self) -> Generation | None:
        """The generation now; None once it will never need a build again."""
        found = await self._in_thread(lambda: self._store.find(self.collection).generations())
        self.generation = next((one for one in found if one.number == self.number), self.generation)
        self._moved.set()
        states = [one.state for one in found if one.number == self.number]
        live = states and states[0] in (GenerationState.BUILDING, GenerationState.FORMER)
        return self.generation if live else None

    async def _wait(self, seconds: float) -> None:
        # Not ``wait_for``, which in Python 3.11 forgets a cancellation that comes together with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._look.wait()
        self._look.clear()

    async def _build(self, generation: Generation) -> None:
        """Builds all that the generation lacks."""
        target = await self._target(generation)
        await self._in_thread(self._room.check)
        resumes = bool(generation.progress.paused or self._trouble)
        if resumes:
            await probe(target)
        async with self._turns, leased(self._store, self.collection, self._threads) as collection:
            if resumes:
                now = await asyncio.wrap_future(collection.pause_build(self.number, "", by_user=False))
                if now.progress.paused_by_user:
                    return
                self._trouble = ""
                logger.info("collection '%s': the build of generation %d goes on", self.collection, self.number)
            self._rates.begin()
            portions: asyncio.Queue[asyncio.Task[Built] | None] = asyncio.Queue(maxsize=1)
            reading = asyncio.create_task(self._read(collection, target, portions))
            portion: asyncio.Task[Built] | None = None
            try:
                while (portion := await portions.get()) is not None:
                    if not await self._write(collection, await portion):
                        return
                await reading
            finally:
                reading.cancel()
                if portion is not None:
                    portion.cancel()
                while not portions.empty():
                    if (waiting := portions.get_nowait()) is not None:
                        waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await reading

    async def _read(
        self, collection: CollectionStore, target: Target, portions: asyncio.Queue[asyncio.Task[Built] | None]
    ) -> None:
        """Reads and cuts ahead, and begins to embed each portion as soon as there is room."""
        after: int | None = None
        try:
            while True:
                await self._in_thread(self._room.check)
                portion = await self._in_thread(partial(read, collection, target, after, self._max_document_tokens))
                embedding = asyncio.create_task(embed(portion, target))
                try:
                    await portions.put(embedding)
                except asyncio.CancelledError:
                    embedding.cancel()
                    raise
                if not portion.documents:
                    return
                after = portion.cursor
        finally:
            await portions.put(None)

    async def _write(self, collection: CollectionStore, built: Built) -> bool:
        """Writes a portion; returns whether the build may go on."""
        if self._all_refused(built):
            self._doubted = True
            reason = (
                f"the first {REFUSED_DOCUMENTS} documents or more are all refused, the last one because"
                f" {built.failures[-1].message}: check the model and the passage size, then resume or cancel"
            )
            logger.warning("collection '%s': generation %d: %s", self.collection, self.number, reason)
            # Paused like by a caller: a retry changes nothing, so only a caller can resume it.
            self.generation = await asyncio.wrap_future(collection.pause_build(self.number, reason, by_user=True))
            self._moved.set()
            return False
        self.generation = await asyncio.wrap_future(
            collection.build(self.number, built.documents, built.cursor, tokens=built.tokens, failures=built.failures)
        )
        self._rates.add(len(built.documents), built.tokens)
        if built.tokens:
            self._setbacks.give_back(self.collection, self.number)
        self._moved.set()
        return not self.generation.progress.paused_by_user

    def _all_refused(self, built: Built) -> bool:
        """Whether the generation has taken no document and refused so many that something must be wrong."""
        if self.generation is None or self._doubted or len(built.failures) < len(built.documents):
            return False
        at = self.generation.progress
        return (
            at.done_documents == at.failed_documents and at.failed_documents + len(built.failures) >= REFUSED_DOCUMENTS
        )

    async def _pause(self, error: BaseException) -> None:
        """Records why the build stands still."""
        if isinstance(error, ShortlistError):
            reason = error.message
        else:
            logger.error("the build of generation %d failed", self.number, exc_info=error)
            reason = f"unexpected fault: {type(error).__name__}; the server's log has it"
        if reason == self._trouble:
            return
        self._trouble = reason
        self._moved.set()
        logger.warning("collection '%s': the build of generation %d pauses: %s", self.collection, self.number, reason)
        try:
            async with leased(self._store, self.collection, self._threads) as collection:
                self.generation = await asyncio.wrap_future(collection.pause_build(self.number, reason, by_user=False))
        except ShortlistError as failure:
            # On a full disk even the reason has no room; it stays in memory while the server runs.
            logger.info("the reason cannot be stored: %s", failure.message)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)
