"""Starts reindexes, keeps a job for each generation that may lack documents, and reports their progress.

``begin`` takes up the builds that a stop or a crash interrupted. The jobs follow the states of their generations by
themselves; ``look`` makes them notice a change at once. Coroutines on the server's event loop; blocking work runs in
the composition root's thread pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from shortlist_server.domain import (
    Generation,
    GenerationState,
    NewGeneration,
    ReindexEstimate,
    ReindexProgress,
)
from shortlist_server.errors import GenerationNotFound, GenerationNotReady, OutOfSpace, ShortlistError, Unavailable
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.reindex.estimate import Estimator
from shortlist_server.pipeline.reindex.job import Job
from shortlist_server.pipeline.reindex.room import Room
from shortlist_server.pipeline.reindex.settings import generation_config
from shortlist_server.pipeline.setbacks import Setbacks
from shortlist_server.storage.base import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")

TELL_SECONDS = 1.0
"""Longest time between two reports of a build's progress."""

BUILDS_AT_ONCE = 8
"""Most builds at one time; each keeps its collection open, and ``max_open_collections`` must hold others, too."""

PAUSED_BY_CALLER = "paused by a caller"


class Reindexer:
    """Builds generations of the collections of a store."""

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        setbacks: Setbacks,
        estimator: Estimator,
        room: Room,
        *,
        max_document_tokens: int,
    ) -> None:
        """``threads`` read and cut documents, and should have a low priority."""
        self._store = store
        self._models = models
        self._threads = threads
        self._setbacks = setbacks
        self._estimator = estimator
        self._room = room
        self._max_document_tokens = max_document_tokens
        self._jobs: dict[tuple[str, int], Job] = {}
        self._looking: dict[tuple[str, bool], asyncio.Task[None]] = {}
        self._look_again: set[tuple[str, bool]] = set()
        self._turns = asyncio.Semaphore(BUILDS_AT_ONCE)
        self._closed = False
        setbacks.tell(self._lags)

    async def begin(self) -> None:
        """Goes on with the builds that a stop or a crash interrupted."""
        for name in await self._in_thread(self._store.reindexing):
            self.look(name)

    async def close(self) -> None:
        """Stops all jobs; the generations stay as they are. Idempotent."""
        self._closed = True
        for task in self._looking.values():
            task.cancel()
        await asyncio.gather(*(job.stop() for job in self._jobs.values()))
        self._jobs.clear()

    def look(self, collection: str) -> None:
        """Makes the jobs of a collection look at its generations: one was made, began to serve, lags or was dropped."""
        self._begin_to_look(collection, wake=True)

    async def estimate(self, collection: str, new: NewGeneration, *, force: bool = False) -> ReindexEstimate:
        """Estimates what a reindex would need; embeds a few documents for it.

        Args:
            force: allow the settings of the serving generation.

        Raises:
            CollectionNotFound, ModelNotFound, InvalidArgument: the request is wrong.
            ShortlistError: the model failed.
        """
        async with leased(self._store, collection, self._threads) as held:
            return await self._estimator.estimate(held, generation_config(held, self._models, new, force=force))

    async def start(
        self, collection: str, new: NewGeneration, *, force: bool = False
    ) -> tuple[Generation, ReindexEstimate]:
        """Makes a generation and begins to build it.

        Args:
            force: start even if the disk seems too small; allow the settings of the serving generation.

        Raises:
            CollectionNotFound, ModelNotFound, InvalidArgument: the request is wrong.
            GenerationNotReady: another generation is being built.
            OutOfSpace: the estimate does not fit on the disk; ``metadata`` has needed_bytes and free_bytes.
            ShortlistError: the model failed.
        """
        async with leased(self._store, collection, self._threads) as held:
            config = generation_config(held, self._models, new, force=force)
            if any(one.state is GenerationState.BUILDING for one in held.generations()):
                raise GenerationNotReady(
                    f"collection '{collection}' has a generation that is being built: switch to it or drop it first"
                )
            estimate = await self._estimator.estimate(held, config)
            if not force:
                _check_space(estimate)
            generation = await asyncio.wrap_future(held.create_generation(config))
        logger.info(
            "collection '%s': generation %d is being built with embedder '%s'",
            collection,
            generation.number,
            config.embedder,
        )
        self._job(collection, generation.number)
        return generation, estimate

    async def build(
        self, collection: str, number: int, tell: Callable[[ReindexProgress], None] = lambda _: None
    ) -> Generation:
        """Follows the build of a generation until it is complete, through pauses too. Returns the generation.

        Cancelling this coroutine does not end the build.

        Raises:
            CollectionNotFound, GenerationNotFound: it does not exist, or is dropped meanwhile.
            Unavailable: the server is stopping.
        """
        job = self._job(collection, number)
        job.look()
        while not job.ended:
            if (progress := job.progress()) is not None:
                tell(progress)
            if job.generation is not None and job.generation.progress.complete:
                return job.generation
            await job.moved(TELL_SECONDS)
        if self._closed:
            raise Unavailable("the server is stopping; the build goes on after its next start")
        generation = await self._generation(collection, number)
        if not generation.progress.complete:
            raise GenerationNotFound(f"the build of generation {number} of collection '{collection}' has ended")
        return generation

    async def pause(self, collection: str, number: int, reason: str = PAUSED_BY_CALLER) -> Generation:
        """Pauses a build, durably.

        Raises:
            CollectionNotFound, GenerationNotFound: there is no such generation.
            GenerationNotReady: it serves.
        """
        return await self._set_pause(collection, number, reason or PAUSED_BY_CALLER)

    async def resume(self, collection: str, number: int) -> Generation:
        """Lets a paused build go on, also one that a failure paused: it tries again at once.

        Raises:
            CollectionNotFound, GenerationNotFound: there is no such generation.
        """
        return await self._set_pause(collection, number, "")

    async def cancel(self, collection: str, number: int) -> None:
        """Ends a build and drops what was built.

        Raises:
            CollectionNotFound, GenerationNotFound: there is no such generation.
            GenerationNotReady: it serves.
        """
        async with leased(self._store, collection, self._threads) as held:
            await asyncio.wrap_future(held.drop_generation(number))
        if (job := self._jobs.get((collection, number))) is not None:
            job.interrupt()

    def progress(self, collection: str, number: int) -> ReindexProgress | None:
        """The progress of a build; None where no job has it. Any thread."""
        job = self._jobs.get((collection, number))
        return None if job is None else job.progress()

    async def _set_pause(self, collection: str, number: int, reason: str) -> Generation:
        async with leased(self._store, collection, self._threads) as held:
            generation = await asyncio.wrap_future(held.pause_build(number, reason, by_user=True))
        job = self._job(collection, number)
        if reason:
            job.interrupt()
        else:
            job.look()
        return generation

    def _lags(self, collection: str) -> None:
        """Sees to it that each generation has a job. A job that waits after a failure waits on: no caller asked."""
        self._begin_to_look(collection, wake=False)

    def _begin_to_look(self, collection: str, *, wake: bool) -> None:
        key = (collection, wake)
        if self._closed:
            return
        if key in self._looking:
            # That one may have looked already, so another one follows it.
            self._look_again.add(key)
            return
        task = self._looking[key] = asyncio.create_task(self._look(collection, wake=wake))
        task.add_done_callback(lambda _: self._looked(key))

    def _looked(self, key: tuple[str, bool]) -> None:
        del self._looking[key]
        if key in self._look_again:
            self._look_again.discard(key)
            self._begin_to_look(key[0], wake=key[1])

    async def _look(self, collection: str, *, wake: bool) -> None:
        # A collection that was dropped or cannot be read has nothing to build; its jobs notice that themselves.
        with contextlib.suppress(ShortlistError):
            for one in await self._in_thread(lambda: self._store.find(collection).generations()):
                if one.state in (GenerationState.BUILDING, GenerationState.FORMER):
                    self._job(collection, one.number)
        for (name, _), job in list(self._jobs.items()):
            if wake and name == collection:
                job.look()

    def _job(self, collection: str, number: int) -> Job:
        """The job of a generation; a new one if it has none."""
        job = self._jobs.get((collection, number))
        if job is None or job.ended:
            for key in [key for key, one in self._jobs.items() if one.ended]:
                del self._jobs[key]
            job = self._jobs[collection, number] = Job(
                self._store,
                self._models,
                self._threads,
                self._setbacks,
                self._room,
                self._turns,
                collection,
                number,
                max_document_tokens=self._max_document_tokens,
            )
        return job

    async def _generation(self, collection: str, number: int) -> Generation:
        for one in await self._in_thread(lambda: self._store.find(collection).generations()):
            if one.number == number:
                return one
        raise GenerationNotFound(f"collection '{collection}' has no generation {number}")

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _check_space(estimate: ReindexEstimate) -> None:
    if estimate.disk_bytes > estimate.free_disk_bytes:
        raise OutOfSpace(
            f"the new generation needs about {estimate.disk_bytes} bytes on disk, and {estimate.free_disk_bytes} are"
            " free besides what the server keeps back: free some space, or force the start",
            metadata={
                "needed_bytes": str(estimate.disk_bytes),
                "free_bytes": str(estimate.free_disk_bytes),
            },
        )
