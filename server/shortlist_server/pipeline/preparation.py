"""What precedes the commit of a window: settle what need not be stored, cut, and embed for every generation.

A generation that is being built, and the former one, get their passages with each write, so that the build need not
make them later. What they may do to a write:

- A document that the generation being built refuses, because it is too large for it, fails as a whole.
- Where their model fails or is not loaded, or takes too long, their passages are left out and the build makes them up.
- A document that the former generation refuses has no passages there: it is found by its words alone after a roll-back.
- A document without text, whose vector the client made for another generation, has no passages in them either.

Coroutines on the server's event loop; blocking work runs in the composition root's thread pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from shortlist_server.domain import Deletion, Document, GenerationState, NewPassage
from shortlist_server.errors import InferenceFailed, InvalidArgument, InvalidVector, Overloaded, ShortlistError
from shortlist_server.inference.base import CutText, ModelCatalog, PassageEmbedding, PassageText
from shortlist_server.pipeline.content import client_vectors, content_hash
from shortlist_server.pipeline.operations import AckStatus, Operation, Prepared
from shortlist_server.pipeline.setbacks import Setbacks
from shortlist_server.pipeline.targets import Target, Targets, Work, new_passages, refuses, targets
from shortlist_server.storage.base import CollectionStore

T = TypeVar("T")

RETRY_SECONDS = 0.1
"""Wait before a full queue is tried again, where the queue does not say how long."""

OTHERS_SECONDS = 30.0
"""How much longer than the serving generation's model those of the others may take for a window."""

_DRY_RUN_PASSAGES = 8


@dataclass(slots=True)
class _Batch:
    """The passages of a window that one model embeds, for all generations that have the same passages."""

    work: Work
    targets: list[Target] = field(default_factory=list)
    items: list[Prepared] = field(default_factory=list)

    @property
    def serves(self) -> bool:
        return any(target.serves for target in self.targets)

    @property
    def dimension(self) -> int:
        return max(target.dimension for target in self.targets)

    def numbers(self, item: Prepared) -> list[Target]:
        """The generations for which it embeds a document."""
        return [target for target in self.targets if target.number in item.cuts]

    def passages_of(self, item: Prepared) -> Sequence[PassageText]:
        return item.cuts[self.numbers(item)[0].number].passages

    def passages(self) -> list[PassageText]:
        return [passage for item in self.items for passage in self.passages_of(item)]


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
        setbacks: Setbacks,
        *,
        stream: str,
        dry_run: bool,
        max_document_tokens: int,
    ) -> None:
        self._collection = collection
        self._models = models
        self._threads = threads
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
        await self._in_thread(self._settle, prepared, position, in_flight)
        await self.embed(prepared)
        return prepared

    async def embed(self, prepared: Sequence[Prepared]) -> None:
        """Cuts and embeds for the generations that there are now; also again, after one of them has begun to serve."""
        found = targets(self._collection, self._models)
        for item in prepared:
            item.begin_again(found.serving.number)
        for number, error in found.missing:
            if not self._setbacks.leaves_out(self._collection.name, number):
                self._setbacks.note(self._collection.name, number, error)
        found = self._without_setbacks(found)
        if not any(item.document for item in prepared):
            return
        await self._in_thread(self._cut, prepared, found)
        await self._embed(_batches(found, [item for item in prepared if item.document is not None]))
        if not self._dry_run:
            for item in prepared:
                item.join()

    def _without_setbacks(self, found: Targets) -> Targets:
        name = self._collection.name
        others = [target for target in found.others if not self._setbacks.leaves_out(name, target.number)]
        # The owner of clients' vectors needs no model.
        owner = found.vector_owner
        if owner in found.others and owner not in others:
            others.append(owner)
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

    def _cut(self, prepared: Sequence[Prepared], found: Targets) -> None:
        """Cuts the documents for each generation, and takes clients' vectors. Blocking, CPU-bound."""
        self._take_vectors(prepared, found.vector_owner)
        for item in prepared:
            document = item.document
            if document is None:
                continue
            done: dict[Work, CutText | ShortlistError] = {}
            for target in found.all:
                if target.number in item.passages:
                    continue
                try:
                    self._cut_for(item, document, target, done)
                except ShortlistError as error:
                    item.settle(AckStatus.FAILED, error=error)
                    break

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

    def _cut_for(
        self, item: Prepared, document: Document, target: Target, done: dict[Work, CutText | ShortlistError]
    ) -> None:
        """Cuts a document for a generation; notes in ``done`` what became of it.

        Raises:
            ShortlistError: the generation, and with it the document, cannot take it.
        """
        if target.work is None:
            if target.serves:
                raise InvalidArgument(
                    "the collection has no embedder: give the document a vector", field="document.vector"
                )
            item.passages[target.number] = ()
            return
        if target.work not in done:
            try:
                done[target.work] = target.work.cut(document.title, document.text, self._max_document_tokens)
            except ShortlistError as error:
                done[target.work] = error
        outcome = done[target.work]
        if not isinstance(outcome, ShortlistError):
            item.cuts[target.number] = outcome
        elif target.serves or (refuses(outcome) and target.state is GenerationState.BUILDING):
            raise outcome
        elif refuses(outcome):
            item.passages[target.number] = ()
        else:
            self._setbacks.note(self._collection.name, target.number, outcome)

    async def _embed(self, batches: Iterable[_Batch]) -> None:
        """Embeds for the serving generation; the others have as long, and somewhat longer."""
        serving = [batch for batch in batches if batch.serves]
        others = [] if self._dry_run else [batch for batch in batches if not batch.serves]
        aside = {asyncio.create_task(self._embed_aside(batch)): batch for batch in others}
        try:
            for batch in serving:
                await self._embed_serving(batch)
            if aside:
                _, late = await asyncio.wait(aside, timeout=OTHERS_SECONDS)
                for task in late:
                    self._leave_out(aside[task], Overloaded(f"the model needs more than {OTHERS_SECONDS:g} s longer"))
        finally:
            for task in aside:
                task.cancel()

    async def _embed_serving(self, batch: _Batch) -> None:
        passages = batch.passages()
        if self._dry_run:
            passages = passages[: 0 if self.seconds_per_token else _DRY_RUN_PASSAGES]
        begin = time.perf_counter()
        embedded = await self._embed_patiently(batch, passages)
        if passages:
            self.seconds_per_token = (time.perf_counter() - begin) / sum(passage.tokens for passage in passages)
        if not self._dry_run:
            self._spread(batch, embedded)

    async def _embed_aside(self, batch: _Batch) -> None:
        try:
            self._spread(batch, await self._embed_patiently(batch, batch.passages()))
        except ShortlistError as error:
            self._leave_out(batch, error)
        except Exception as error:
            # Whatever goes wrong in another generation, the write goes on.
            self._leave_out(batch, InferenceFailed(f"the model failed: {type(error).__name__}: {error}"))

    async def _embed_patiently(
        self, batch: _Batch, passages: Sequence[PassageText]
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

    def _spread(self, batch: _Batch, embedded: Sequence[PassageEmbedding | Exception]) -> None:
        """Gives each document its passages in the batch's generations. A failure of the serving one fails it."""
        following = iter(embedded)
        errors = []
        for item in batch.items:
            own = [next(following) for _ in batch.passages_of(item)]
            good = [one for one in own if isinstance(one, PassageEmbedding)]
            error = next((one for one in own if isinstance(one, Exception)), None)
            for target in batch.numbers(item):
                if error is None:
                    item.passages[target.number] = new_passages(item.cuts[target.number], good, target.dimension)
                elif target.serves:
                    item.settle(AckStatus.FAILED, error=_as_error(error))
            if error is not None:
                errors.append(_as_error(error))
        if errors and len(errors) == len(batch.items):
            self._leave_out(batch, errors[0])
            return
        for target in batch.targets:
            if not target.serves:
                self._setbacks.over(self._collection.name, target.number)
                if errors:
                    self._setbacks.lags(self._collection.name)

    def _leave_out(self, batch: _Batch, error: ShortlistError) -> None:
        for target in batch.targets:
            if not target.serves:
                self._setbacks.note(self._collection.name, target.number, error)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs blocking work in a thread, within the call's context: its log lines and spans belong to the call."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, function, *arguments)


def _as_error(error: Exception) -> ShortlistError:
    return error if isinstance(error, ShortlistError) else InferenceFailed(str(error))


def _batches(found: Targets, items: Sequence[Prepared]) -> list[_Batch]:
    by_work: dict[Work, _Batch] = {}
    for target in found.all:
        if target.work is not None:
            by_work.setdefault(target.work, _Batch(target.work)).targets.append(target)
    for batch in by_work.values():
        batch.items = [item for item in items if batch.numbers(item)]
    return list(by_work.values())
