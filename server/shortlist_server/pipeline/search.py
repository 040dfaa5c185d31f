"""A search: embed, retrieve, fuse, rerank, answer, in that order.

``Searcher.search`` is the whole path; each stage is a function below it, in the order they run. Coroutines run on the
server's event loop; blocking work runs in the composition root's thread pool.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from shortlist_server.domain import (
    Deadline,
    Hit,
    LexicalCandidates,
    RetrievalMode,
    SearchRequest,
    SearchResult,
)
from shortlist_server.errors import SequenceNotReached
from shortlist_server.inference.base import EmbedderService, ModelCatalog
from shortlist_server.observe.observer import Observer, SearchWatch
from shortlist_server.pipeline.answer import answer, report
from shortlist_server.pipeline.candidates import Candidates
from shortlist_server.pipeline.explain import explain
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.plan import plan
from shortlist_server.pipeline.recall import RecallMonitor
from shortlist_server.pipeline.recent_queries import RecentQueries
from shortlist_server.pipeline.rerank import fetch, score, take
from shortlist_server.pipeline.retrieve import match, retrieve
from shortlist_server.pipeline.run import SearchRun, Shortlist
from shortlist_server.pipeline.stages import PlannedStage
from shortlist_server.storage.base import CollectionStore, Selection, Store

T = TypeVar("T")

ATTEMPTS = 3
"""How often a search is tried when documents that it found are replaced before it can read them."""

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.005, 0.1
"""Pauses between two looks at a collection's sequence; they grow longer with the wait."""

FARTHEST_SEQUENCE = 10_000_000
"""No search waits for a sequence more changes ahead than this: no collection commits so many during a call."""


class Searcher:
    """Answers searches over the collections of a store with the models of a catalog."""

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        observer: Observer,
        recall: RecallMonitor | None = None,
        recent: RecentQueries | None = None,
    ) -> None:
        """``recall`` and ``recent`` note every search."""
        self._store = store
        self._models = models
        self._threads = threads
        self._observer = observer
        self._recall = recall
        self._recent = recent

    async def search(self, request: SearchRequest, deadline: Deadline) -> SearchResult:
        """The best documents for a query, with the scores and ranks of every stage.

        Raises:
            CollectionNotFound, GenerationNotFound, ModelNotFound, ModelMismatch, InvalidArgument, InvalidVector,
                UnsupportedByCollection: the request does not fit the collection.
            SequenceNotReached: the collection had not reached ``min_sequence`` when time ran out.
            DeadlineExceeded: time ran out before an answer.
            Overloaded, InferenceFailed: a model could not embed the query, or could not rerank under the policy FAIL.
        """
        watch = self._observer.search(request.collection)
        try:
            result = await self._search(request, deadline, watch)
            watch.answered(result.report)
            return result
        finally:
            watch.ended()

    def reached(self, request: SearchRequest) -> bool:
        """Whether a search need not wait for the sequence it asks for."""
        if request.min_sequence is None:
            return True
        held = self._store.try_lease(request.collection)
        if held is None:
            return False
        with held as collection:
            return collection.sequence >= request.min_sequence

    async def wait(self, request: SearchRequest, deadline: Deadline) -> None:
        """Waits for the sequence that a search asks for, before the search holds anything that others need.

        Raises:
            CollectionNotFound: no collection has that name.
            SequenceNotReached: the collection did not reach it in time, or cannot.
        """
        async with leased(self._store, request.collection, self._threads) as collection:
            await _reach(collection, request.min_sequence, deadline)

    async def _search(self, request: SearchRequest, deadline: Deadline, watch: SearchWatch) -> SearchResult:
        started = time.perf_counter()
        # A search without a model spends most of its time on turns in a thread; leasing an open collection takes none.
        async with leased(self._store, request.collection, self._threads) as collection:
            await _reach(collection, request.min_sequence, deadline)
            with collection.read_generation(request.generation or None) as generation:
                settings = plan(request, generation, self._models)
                run = SearchRun(
                    request=request,
                    deadline=deadline,
                    collection=collection,
                    generation=generation,
                    plan=settings,
                    sequence=collection.sequence,
                    started=started,
                    watch=watch,
                    degradations=list(settings.degradations),
                )
                return await self._run(run)

    async def _run(self, run: SearchRun) -> SearchResult:
        request = run.request
        selection, lexical = await self._embed_and_match(run)
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            if run.plan.stages:
                table, hits = await self._rerank(run, selection, lexical, last)
            else:
                table, hits = await self._in_thread(_without_reranking, run, selection, lexical, last)
            if hits is not None:
                break
            run.start_over()
            selection, lexical = await self._in_thread(match, run)
        assert hits is not None
        if self._recall is not None:
            self._recall.note(run, table)
        if self._recent is not None:
            self._recent.note(run.collection, request)
        account = report(run, table, selection)
        explanation = await self._in_thread(explain, run, table) if request.explain else None
        return SearchResult(hits=hits, report=account, explanation=explanation)

    async def _embed_and_match(self, run: SearchRun) -> tuple[Selection | None, LexicalCandidates | None]:
        """Embeds the query while a thread resolves the filter and asks the lexical index."""
        if run.request.filter is None and run.plan.mode is RetrievalMode.DENSE:
            if run.plan.embedder is not None:
                await _embed(run, run.plan.embedder)
            return None, None
        if run.plan.embedder is None:
            return await self._in_thread(match, run)
        matched, _ = await asyncio.gather(self._in_thread(match, run), _embed(run, run.plan.embedder))
        return matched

    async def _rerank(
        self, run: SearchRun, selection: Selection | None, lexical: LexicalCandidates | None, last_attempt: bool
    ) -> tuple[Candidates, list[Hit] | None]:
        """Retrieves, and runs the rerank stages one after the other. A thread takes a turn between two of them."""
        first, *others = run.plan.stages
        table, shortlist = await self._in_thread(_first_stage, run, selection, lexical, first)
        await score(run, shortlist)
        for stage in others:
            shortlist = await self._in_thread(_next_stage, run, table, shortlist, stage)
            await score(run, shortlist)
        return table, await self._in_thread(_last_stage, run, table, shortlist, last_attempt)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs blocking work in a thread, within the call's context: its log lines and spans belong to the call."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, function, *arguments)


async def _reach(collection: CollectionStore, sequence: int | None, deadline: Deadline) -> None:
    # Ends a little before the caller's time, which lets the reason still reach the caller.
    until = Deadline.after(0.9 * deadline.left_seconds())
    pause = SHORTEST_PAUSE_SECONDS
    while sequence is not None and collection.sequence < sequence:
        if until.passed() or sequence - collection.sequence > FARTHEST_SEQUENCE:
            raise SequenceNotReached(
                f"the collection is at sequence {collection.sequence}, not yet at {sequence}",
                field="min_sequence",
                metadata={"sequence": str(collection.sequence)},
            )
        await asyncio.sleep(min(pause, max(0.0, until.left_seconds())))
        pause = min(1.1 * pause, LONGEST_PAUSE_SECONDS)


async def _embed(run: SearchRun, embedder: EmbedderService) -> None:
    with run.stage("embed"):
        run.embedding = await embedder.embed_query(
            run.request.text,
            instruction=run.plan.instruction,
            dimension=run.generation.config.dimension,
            deadline=run.deadline,
            fresh=run.request.fresh_embedding,
        )


def _without_reranking(
    run: SearchRun, selection: Selection | None, lexical: LexicalCandidates | None, last_attempt: bool
) -> tuple[Candidates, list[Hit] | None]:
    """The whole of a search that reranks nothing: one turn in a thread."""
    table = retrieve(run, selection, lexical)
    return table, answer(run, table, last_attempt)


def _first_stage(
    run: SearchRun, selection: Selection | None, lexical: LexicalCandidates | None, stage: PlannedStage
) -> tuple[Candidates, Shortlist]:
    """Retrieves, and reads what the first reranker needs: one turn in a thread for both."""
    table = retrieve(run, selection, lexical)
    return table, fetch(run, table, stage)


def _next_stage(run: SearchRun, table: Candidates, shortlist: Shortlist, stage: PlannedStage) -> Shortlist:
    """Orders by a reranker's scores, and reads what the next one needs: one turn in a thread for both."""
    take(table, shortlist)
    return fetch(run, table, stage)


def _last_stage(run: SearchRun, table: Candidates, shortlist: Shortlist, last_attempt: bool) -> list[Hit] | None:
    """Orders by the last reranker's scores, and reads the answer: one turn in a thread for both."""
    take(table, shortlist)
    return answer(run, table, last_attempt)
