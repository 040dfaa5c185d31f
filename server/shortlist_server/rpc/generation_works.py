"""The operations that concern generations: reindexes and comparisons.

A reindex goes on after a restart. Its operation then has the same id, which follows from the collection and the
generation. Belongs to the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from hashlib import blake2b

from shortlist.v1 import operation_pb2
from shortlist_server.domain import Generation, GenerationState, ReindexProgress
from shortlist_server.errors import (
    CollectionNotFound,
    GenerationNotFound,
    OperationCancelled,
    OperationNotFound,
    ShortlistError,
)
from shortlist_server.operations.operation import Control, Kind, Operation, Pauses, State, Work
from shortlist_server.operations.registry import OperationRegistry
from shortlist_server.pipeline.compare import Comparer
from shortlist_server.pipeline.comparison import ComparedQuery
from shortlist_server.pipeline.reindex.reindexer import Reindexer
from shortlist_server.rpc.convert.evaluation import progress_out
from shortlist_server.rpc.convert.generations import comparison_out, generation_out, reindex_progress_out
from shortlist_server.rpc.convert.operations import PREFIX, Result
from shortlist_server.storage.base import Store

PAUSED_BY_CALLER = "a caller paused it"

CALLER = "server"
"""The caller of the operations that go on after a restart."""


class GenerationWorks:
    """Starts the operations of generations, and knows which one builds a generation."""

    def __init__(
        self,
        operations: OperationRegistry,
        reindexer: Reindexer,
        comparer: Comparer,
        turns: asyncio.Semaphore,
        store: Store,
        threads: Executor,
    ) -> None:
        """``turns``: held by work that measures searches, one at a time."""
        self._operations = operations
        self._reindexer = reindexer
        self._comparer = comparer
        self._turns = turns
        self._store = store
        self._threads = threads

    def check_room(self, caller: str) -> None:
        """Raises ``Overloaded`` or ``Unavailable`` where no reindex could start now."""
        self._operations.check_room(caller, survives=True)

    def build(self, collection: str, generation: Generation, *, caller: str = CALLER) -> Operation:
        """Starts the operation that builds a generation, which was accepted before."""
        number = generation.number
        work = Work(
            kind=Kind.REINDEX,
            collection=collection,
            collections=(collection,),
            run=partial(self._build, collection, number),
            turns=None,
            id=_id(collection, generation),
            pauses=Pauses(
                pause=lambda: self._reindexer.pause(collection, number, PAUSED_BY_CALLER),
                resume=lambda: self._reindexer.resume(collection, number),
            ),
            survives=True,
            paused=bool(generation.progress.paused),
        )
        return self._operations.start(work, caller=caller, accepted=True)

    def compare(
        self, collection: str, serving: int, candidate: int, queries: Sequence[ComparedQuery], *, caller: str
    ) -> Operation:
        """Starts a comparison of two generations. Raises ``Overloaded`` or ``Unavailable``."""

        async def compare(control: Control) -> Result:
            found = await control.interruptible(
                self._comparer.compare(
                    collection,
                    serving,
                    candidate,
                    queries,
                    lambda progress: control.report_progress(progress_out(progress)),
                )
            )
            data = comparison_out(found).SerializeToString()
            return Result(field=operation_pb2.Operation.GENERATION_COMPARISON_FIELD_NUMBER, data=data)

        work = Work(
            kind=Kind.COMPARE_GENERATIONS,
            collection=collection,
            collections=(collection,),
            run=compare,
            turns=self._turns,
        )
        return self._operations.start(work, caller=caller)

    def go_on(self, collection: str, generations: Sequence[Generation]) -> None:
        """Starts the operation of the reindex that a restart or a restore interrupted, if there is one.

        Also where the generation is complete: whoever waits for the operation then learns that it has succeeded.
        """
        for generation in generations:
            if generation.state is GenerationState.BUILDING and not self._is_known(collection, generation):
                self.build(collection, generation)
        self._reindexer.look(collection)

    async def go_on_with(self, collection: str) -> None:
        """The same for a collection that was restored or repaired; nothing where it cannot be read."""
        loop = asyncio.get_running_loop()
        with suppress(ShortlistError):
            self.go_on(
                collection,
                await loop.run_in_executor(self._threads, lambda: self._store.find(collection).generations()),
            )

    def builder(self, collection: str, generation: Generation) -> str:
        """The name of the operation that builds a generation; "" where none does."""
        if generation.state is not GenerationState.BUILDING:
            return ""
        operation = self._operation(collection, generation)
        return "" if operation is None or operation.state.ended else f"{PREFIX}{operation.id}"

    def _is_known(self, collection: str, generation: Generation) -> bool:
        """Whether an operation builds the generation, or has built it."""
        operation = self._operation(collection, generation)
        return operation is not None and (not operation.state.ended or operation.state is State.SUCCEEDED)

    def _operation(self, collection: str, generation: Generation) -> Operation | None:
        try:
            return self._operations.get(_id(collection, generation))
        except OperationNotFound:
            return None

    async def _build(self, collection: str, number: int, control: Control) -> Result:
        def tell(progress: ReindexProgress) -> None:
            control.report_progress(reindex_progress_out(progress), paused=bool(progress.paused))

        try:
            built = await control.interruptible(self._reindexer.build(collection, number, tell))
        except OperationCancelled:
            with suppress(CollectionNotFound, GenerationNotFound):
                await self._reindexer.cancel(collection, number)
            raise OperationCancelled("the reindex was cancelled, and its generation dropped") from None
        except (CollectionNotFound, GenerationNotFound):
            raise OperationCancelled("the generation was dropped before it was complete") from None
        data = generation_out(built).SerializeToString()
        return Result(field=operation_pb2.Operation.GENERATION_FIELD_NUMBER, data=data)


def interrupted(store: Store) -> list[tuple[str, Sequence[Generation]]]:
    """The collections whose generations lacked documents when the server stopped, with their generations. Blocking."""
    found = []
    for name in store.reindexing():
        # One that is damaged, or was dropped meanwhile, has no reindex to go on with.
        with suppress(ShortlistError):
            found.append((name, store.find(name).generations()))
    return found


def _id(collection: str, generation: Generation) -> str:
    # The time tells generations of the same number apart when a collection is dropped and made again.
    named = f"{collection}/{generation.number}/{round(generation.create_time_seconds * 1000)}"
    return blake2b(named.encode(), digest_size=16).hexdigest()
