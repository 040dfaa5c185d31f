"""What precedes the commit of a window: settle what need not be stored, cut, and embed for every generation.

A generation that is being built, and the former one, get their passages with each write, so that the build need not
make them later. They affect a write so:

- A document that is too large for the generation being built fails as a whole.
- If their model fails, is not loaded, or takes much longer than the serving one, the whole window leaves out their
  passages and the build adds them. Later windows do the same, until the build says that the model works.
- A document that the former generation refuses has no passages there: it is found by its words alone after a roll-back.
- A document without text, whose vector the client made for another generation, has no passages in them.

Coroutines on the server's event loop; blocking work runs in the composition root's thread pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeAlias, TypeVar

from shortlist_server.domain import Deletion, NewPassage
from shortlist_server.errors import InferenceFailed, InvalidArgument, InvalidVector, Overloaded, ShortlistError
from shortlist_server.inference.base import ModelCatalog, PassageEmbedding, PassageText
from shortlist_server.pipeline.batches import Batch, batches
from shortlist_server.pipeline.content import client_vectors, content_hash
from shortlist_server.pipeline.operations import AckStatus, Operation, Prepared
from shortlist_server.pipeline.setbacks import Setbacks
from shortlist_server.pipeline.targets import Target, Targets, targets
from shortlist_server.storage.base import CollectionStore

T = TypeVar("T")

RETRY_SECONDS = 0.1
"""Wait before a full queue is tried again, where the queue does not say how long."""

OTHERS_TIMES, OTHERS_SECONDS = 5.0, 5.0
"""How long a window then waits for the others: a multiple of the serving generation's time, and the least time."""

_DRY_RUN_PASSAGES = 8

_Aside: TypeAlias = "asyncio.Task[ShortlistError | None]"
"""Work for generations that do not serve; its result says why the window leaves them out, if it does."""


class Preparation:
    """Prepares the windows of one session.

    Attributes:
        seconds_per_token: how long the serving generation's model took lately; 0 before the first window.
    """

    def __init__(
        self,
        collection: CollectionStore,
        models: ModelCatalog,
        threads: Executor,
        aside_threads: Executor,
        setbacks: Setbacks,
        *,
        stream: str,
        dry_run: bool,
        max_document_tokens: int,
    ) -> None:
        self._collection = collection
        self._models = models
        self._threads = threads
        self._aside_threads = aside_threads
        self._setbacks = setbacks
        self._stream = stream
        self._dry_run = dry_run
        self._max_document_tokens = max_document_tokens
        self.seconds_per_token = 0.0

    async def prepare(
        self, window: Sequence[Operation], *, position: int, in_flight: Mapping[str, int]
    ) -> list[Prepared]:
        """Does everything that precedes the commit of a window; each operation fails alone.

        Args:
            position: the stream's last durable position.
            in_flight: how many operations on each id are under way, those of the window included.

        Raises:
            ModelNotFound, ModelMismatch: the model of the serving generation is not loaded.
        """
        prepared = [Prepared(operation=operation) for operation in window]
        await self._in_thread(self._threads, self._settle, prepared, position, in_flight)
        await self.embed(prepared)
        return prepared

    async def embed(self, prepared: Sequence[Prepared]) -> None:
        """Cuts and embeds for the present generations; called again when another one begins to serve."""
        found = targets(self._collection, self._models)
        for item in prepared:
            item.begin_again(found.serving.number)
        found = self._without_setbacks(found)
        if not any(item.document for item in prepared):
            return
        began = time.monotonic()
        serving = await self._in_thread(self._threads, self._cut, prepared, found)
        await self._embed(serving, [batch for batch in batches(found, prepared) if not batch.serves], began)
        if not self._dry_run:
            for item in prepared:
                item.join()

    def _without_setbacks(self, found: Targets) -> Targets:
        name = self._collection.name
        others = []
        for number, error in found.missing:
            if not self._setbacks.leaves_out(name, number):
                self._setbacks.note(name, number, error)
        for target in found.others:
            # A generation without an embedder is never left out: it has no model that could fail.
            if self._setbacks.leaves_out(name, target.number):
                self._setbacks.left_out(name, target.number)
            else:
                others.append(target)
        return Targets(serving=found.serving, others=others, missing=found.missing)

    def _settle(self, prepared: Sequence[Prepared], position: int, in_flight: Mapping[str, int]) -> None:
        """Settles replays, refused operations and unchanged documents. Blocking."""
        counts = Counter(item.operation.id for item in prepared)
        replays = [item for item in prepared if self._stream and item.operation.position <= position]
        if replays:
            first, last = replays[0].operation.position, replays[-1].operation.position
            failures = self._collection.failures(self._stream, first, last)
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
                item.hash = content_hash(change)
        alone = {
            item.operation.id: item.hash
            for item in prepared
            if item.hash and counts[item.operation.id] == 1 and in_flight[item.operation.id] == 1
        }
        unchanged = self._collection.unchanged(alone) if alone else {}
        for item in prepared:
            if item.hash and item.operation.id in unchanged:
                item.settle(AckStatus.UNCHANGED, sequence=unchanged[item.operation.id])

    def _cut(self, prepared: Sequence[Prepared], found: Targets) -> list[Batch]:
        """Takes clients' vectors, and cuts what the serving generation's model embeds. Blocking, CPU-bound."""
        self._take_vectors(prepared, found.vector_owner)
        for target in found.all:
            if target.work is None:
                self._leave_to_clients(prepared, target)
        serving = [batch for batch in batches(found, prepared) if batch.serves]
        for batch in serving:
            batch.take(batch.cut(self._max_document_tokens))
        return serving

    def _take_vectors(self, prepared: Sequence[Prepared], owner: Target) -> None:
        with_vectors = [
            (item, document, document.vector)
            for item in prepared
            if (document := item.document) is not None and document.vector is not None
        ]
        vectors = client_vectors([vector for _, _, vector in with_vectors], owner.dimension)
        for (item, document, _), vector in zip(with_vectors, vectors, strict=True):
            if isinstance(vector, InvalidVector):
                item.settle(AckStatus.FAILED, error=vector)
            else:
                item.passages[owner.number] = [NewPassage(start=0, end=len(document.text), vector=vector, tokens=0)]

    def _leave_to_clients(self, prepared: Sequence[Prepared], target: Target) -> None:
        """Settles what becomes of documents without a vector, where clients make the vectors."""
        for item in prepared:
            if item.document is None or target.number in item.passages:
                continue
            if target.serves:
                error = InvalidArgument(
                    "the collection has no embedder: give the document a vector", field="document.vector"
                )
                item.settle(AckStatus.FAILED, error=error)
            else:
                item.passages[target.number] = ()

    async def _embed(self, serving: Sequence[Batch], others: Sequence[Batch], began: float) -> None:
        """Embeds for the serving generation; the others get the same time and a multiple of it more.

        Args:
            began: when the work on the serving generation began.
        """
        aside: dict[_Aside, Batch] = {asyncio.create_task(self._make_aside(batch)): batch for batch in others}
        try:
            for batch in serving:
                await self._embed_serving(batch)
            if aside:
                await self._wait_for(aside, time.monotonic() - began)
        finally:
            for task in aside:
                task.cancel()

    async def _wait_for(self, aside: Mapping[_Aside, Batch], served_seconds: float) -> None:
        """Waits for the generations that do not serve, and notes those that the window leaves out."""
        seconds = max(OTHERS_TIMES * served_seconds, OTHERS_SECONDS)
        began = time.monotonic()
        _, late = await asyncio.wait(aside, timeout=seconds)
        waited = time.monotonic() - began
        for task, batch in aside.items():
            error = Overloaded(f"the model was not done {seconds:.1f} s after that of the serving generation")
            found = error if task in late else task.result()
            if found is not None:
                for target in batch.targets:
                    self._setbacks.note(self._collection.name, target.number, found, waited_seconds=waited)

    async def _embed_serving(self, batch: Batch) -> None:
        passages = batch.passages()
        if self._dry_run:
            passages = passages[: 0 if self.seconds_per_token else _DRY_RUN_PASSAGES]
        begin = time.perf_counter()
        embedded = await self._embed_patiently(batch, passages)
        if passages:
            self.seconds_per_token = (time.perf_counter() - begin) / sum(passage.tokens for passage in passages)
        if not self._dry_run:
            errors = batch.spread(embedded)
            if errors and any(not target.serves for target in batch.targets):
                self._setbacks.lags(self._collection.name)

    async def _make_aside(self, batch: Batch) -> ShortlistError | None:
        """Cuts and embeds for generations that do not serve. Returns why the window leaves them out, if it does.

        Whatever goes wrong in them, the write goes on.
        """
        given_up = threading.Event()
        try:
            cut = partial(batch.cut, self._max_document_tokens, given_up=given_up.is_set)
            batch.take(await self._in_thread(self._aside_threads, cut))
            if batch.items and not self._dry_run:
                errors = batch.spread(await self._embed_patiently(batch, batch.passages()))
                if errors and len(errors) == len(batch.items):
                    return errors[0]
                if errors:
                    self._setbacks.lags(self._collection.name)
        except ShortlistError as error:
            return error
        except Exception as error:
            return InferenceFailed(f"the model failed: {type(error).__name__}: {error}")
        finally:
            # A thread cannot be cancelled, but need not cut the rest.
            given_up.set()
        return None

    async def _embed_patiently(
        self, batch: Batch, passages: Sequence[PassageText]
    ) -> Sequence[PassageEmbedding | Exception]:
        """Embeds, and waits while other streams fill the queue: that slows a stream down instead of refusing it."""
        embedder = batch.work.embedder
        while True:
            try:
                return await embedder.embed_passages(
                    passages, dimension=batch.dimension, token_vectors=embedder.info.token_vectors
                )
            except Overloaded as error:
                await asyncio.sleep(error.retry_after_seconds or RETRY_SECONDS)

    async def _in_thread(self, threads: Executor, function: Callable[..., T], *arguments: object) -> T:
        """Runs blocking work in a thread, within the call's context: its log lines and spans belong to the call."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(threads, run, function, *arguments)
