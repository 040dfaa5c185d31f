# Made by scripts/unasync.py from _async/generations.py; change that file.
"""A client's calls about generations, the parts of a collection that its model made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shortlist import _generation_calls as calls
from shortlist import _operation_calls as operation_calls
from shortlist._admin_types import EvaluateProgress
from shortlist._collection_types import Chunking
from shortlist._generation_types import (
    Generation,
    GenerationComparison,
    GenerationSwitch,
    ReindexEstimate,
    ReindexProgress,
)
from shortlist._operation_types import Operation
from shortlist._sync.admin import AdminCalls


class GenerationCalls(AdminCalls):
    """Calls that change the model, the dimension or the chunking of a collection while it serves."""

    def estimate_reindex(
        self,
        collection: str,
        *,
        embedder: str = "",
        dimension: int = 0,
        chunking: Chunking | None = None,
        query_instruction: str | None = None,
        force: bool = False,
        timeout_seconds: float | None = None,
    ) -> ReindexEstimate:
        """Estimates what a reindex would need; the server embeds a sample of the documents and starts nothing.

        Takes the parameters of ``reindex``. Raises what ``reindex`` raises before it starts, except ``OutOfSpace``:
        see ``ReindexEstimate.fits_on_disk``.
        """
        new = calls.NewGeneration(
            embedder=embedder, dimension=dimension, chunking=chunking, query_instruction=query_instruction
        )
        return self._unary(calls.estimate_reindex(collection, new, force=force), timeout_seconds)

    def reindex(
        self,
        collection: str,
        *,
        embedder: str = "",
        dimension: int = 0,
        chunking: Chunking | None = None,
        query_instruction: str | None = None,
        force: bool = False,
        progress: Callable[[ReindexProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> Generation:
        """Builds a new generation of a collection while it serves, and returns it when it is complete.

        Searches keep using the generation that serves, until ``switch_generation``. Writes go to both. The server goes
        on building when the wait is interrupted, and after a restart; ``cancel_operation`` drops what was built. While
        the reindex is paused, the wait goes on.

        Args:
            collection: its name.
            embedder: one that the server loads; when "", the collection's own in its current revision.
            dimension: size of the vectors; when 0, the embedder's own if you name one, else the collection's.
            chunking: how documents are cut into passages; when None, the embedder's default if you name one, else the
                collection's.
            query_instruction: put before queries; when None, none if you name an embedder, else the collection's.
            force: start even where the estimate does not fit on the disk, or where nothing would change.
            progress: called a few times a second, in the calling thread.
            timeout_seconds: how long to wait; as long as it takes by default.

        Raises:
            CollectionNotFound: there is none of that name.
            ModelNotFound: the server does not load the embedder.
            InvalidArgument: the model cannot have the dimension or the chunking; the collection has no embedder, and
                none is given; or nothing would change.
            GenerationNotReady: another generation is being built.
            OutOfSpace: the estimate does not fit on the disk; ``metadata`` has the bytes.
            OperationCancelled: somebody cancelled it.
            DeadlineExceeded: it is not complete yet; the server goes on.
        """
        waiting = operation_calls.Waiting(None, timeout_seconds)
        started = self.start_reindex(
            collection,
            embedder=embedder,
            dimension=dimension,
            chunking=chunking,
            query_instruction=query_instruction,
            force=force,
            timeout_seconds=timeout_seconds,
        )
        # A reindex has no other progress.
        tell: Callable[[Any], None] | None = progress
        ended = self.wait_operation(
            started.name,
            progress=tell,
            timeout_seconds=waiting.left_seconds(),
            reconnect_seconds=operation_calls.REINDEX_RECONNECT_SECONDS,
        )
        return operation_calls.result_of(ended, Generation)

    def start_reindex(
        self,
        collection: str,
        *,
        embedder: str = "",
        dimension: int = 0,
        chunking: Chunking | None = None,
        query_instruction: str | None = None,
        force: bool = False,
        timeout_seconds: float | None = None,
    ) -> Operation:
        """Starts what ``reindex`` does, and returns the operation at once.

        ``pause_operation``, ``resume_operation`` and ``cancel_operation`` take its name, which a restart of the server
        does not change; ``Generation.operation`` has it too.
        """
        new = calls.NewGeneration(
            embedder=embedder, dimension=dimension, chunking=chunking, query_instruction=query_instruction
        )
        return self._unary(calls.start_reindex(collection, new, force=force), timeout_seconds)

    def generations(self, collection: str, *, timeout_seconds: float | None = None) -> list[Generation]:
        """The generations of a collection by number; those that are being dropped included.

        Raises:
            CollectionNotFound: there is none of that name.
        """
        return self._unary(calls.list_generations(collection), timeout_seconds)

    def compare_generations(
        self,
        collection: str,
        *,
        generation: int = 0,
        queries: Mapping[str, str] | None = None,
        qrels: Mapping[str, Mapping[str, int]] | None = None,
        recent_queries: int = 0,
        progress: Callable[[EvaluateProgress], None] | None = None,
        timeout_seconds: float | None = None,
    ) -> GenerationComparison:
        """Compares a generation with the one that serves; writes nothing and changes nobody's search.

        Args:
            collection: its name.
            generation: what to compare; when 0, the one that is being built, else the former one.
            queries: texts by id, 1 to 10,000; when None, recent queries of the collection, which the server keeps in
                memory if its setting ``sampled_queries`` says so.
            qrels: with ``queries``: by query id, grades by document id, as for ``evaluate``.
            recent_queries: without ``queries``: at most this many, up to 1,000; 200 when 0.
            progress: called with the searches done, a few times a second, in the calling thread.
            timeout_seconds: time for the whole of it; none by default.

        Raises:
            CollectionNotFound: there is none of that name.
            GenerationNotFound: there is no such generation, or none beside the one that serves.
            FailedPrecondition: the server keeps no recent queries of the collection.
            InvalidArgument: a query has no text or no relevant document.
        """
        call = calls.compare_generations(collection, generation, queries, qrels, recent_queries)
        return operation_calls.result_of(self._start_and_wait(call, progress, timeout_seconds), GenerationComparison)

    def start_compare_generations(
        self,
        collection: str,
        *,
        generation: int = 0,
        queries: Mapping[str, str] | None = None,
        qrels: Mapping[str, Mapping[str, int]] | None = None,
        recent_queries: int = 0,
        timeout_seconds: float | None = None,
    ) -> Operation:
        """Starts what ``compare_generations`` does, and returns the operation at once."""
        call = calls.compare_generations(collection, generation, queries, qrels, recent_queries)
        return self._unary(call, timeout_seconds)

    def switch_generation(
        self, collection: str, generation: int = 0, *, timeout_seconds: float | None = None
    ) -> GenerationSwitch:
        """Lets a complete generation serve; the one that serves now becomes the former one.

        No search fails: one that is under way ends on the generation that it began with. The server drops the former
        generation of an earlier switch.

        Args:
            collection: its name.
            generation: its number; the one that was built when 0. Nothing changes if it serves already.
            timeout_seconds: deadline of the call; the client's by default.

        Raises:
            CollectionNotFound: there is none of that name.
            GenerationNotFound: there is no such generation.
            GenerationNotReady: it lacks documents, or is damaged.
        """
        return self._unary(calls.switch_generation(collection, generation), timeout_seconds)

    def roll_back_generation(self, collection: str, *, timeout_seconds: float | None = None) -> GenerationSwitch:
        """Lets the former generation serve again, with every write that came meanwhile. A second call undoes the first.

        Raises:
            CollectionNotFound: there is none of that name.
            GenerationNotFound: there is no former generation.
            GenerationNotReady: the former generation lacks documents, because its model failed.
        """
        return self._unary(calls.roll_back_generation(collection), timeout_seconds)

    def drop_generation(self, collection: str, generation: int, *, timeout_seconds: float | None = None) -> None:
        """Drops a generation that does not serve; the server frees its space in the background. There is no undo.

        Raises:
            CollectionNotFound: there is none of that name.
            GenerationNotFound: there is no such generation.
            GenerationNotReady: it serves.
        """
        self._unary(calls.drop_generation(collection, generation), timeout_seconds)
