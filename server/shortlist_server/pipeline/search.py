"""A search: embed, retrieve, fuse, rerank, answer, in that order.

``Searcher.search`` is the whole path; every stage is one function below it, in the order they run. Coroutines run on
the server's event loop; what blocks runs in the thread pool that the composition root hands in.
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
    Degradation,
    DegradationKind,
    Hit,
    LexicalCandidates,
    RerankFailurePolicy,
    RetrievalMode,
    SearchRequest,
    SearchResult,
)
from shortlist_server.errors import (
    DeadlineExceeded,
    InvalidArgument,
    InvalidVector,
    ModelMismatch,
    SequenceNotReached,
    ShortlistError,
    UnsupportedByCollection,
)
from shortlist_server.inference.base import (
    LATE_INTERACTION,
    NO_MODEL,
    EmbedderService,
    ModelCatalog,
    RerankerService,
    RerankScores,
)
from shortlist_server.observe.observer import Observer, SearchWatch
from shortlist_server.pipeline.answer import answer, report
from shortlist_server.pipeline.explain import explain
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.recall import RecallMonitor
from shortlist_server.pipeline.rerank import blended, fetch, note_partial
from shortlist_server.pipeline.retrieve import match, retrieve
from shortlist_server.pipeline.run import Ranked, Retrieved, SearchRun, Shortlist
from shortlist_server.pipeline.settings import SearchSettings, resolve
from shortlist_server.storage.base import CollectionStore, Selection, Store

T = TypeVar("T")

ATTEMPTS = 3
"""How often a search is begun anew because a document it found was replaced before it could be read."""

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.005, 0.1
"""Between two looks at a collection's sequence; they grow longer with the wait."""

FARTHEST_SEQUENCE = 10_000_000
"""No search waits for a sequence so many changes ahead: no collection commits as many in the time of a call."""


class Searcher:
    """Answers searches over the collections of a store with the models of a catalog."""

    def __init__(
        self,
        store: Store,
        models: ModelCatalog,
        threads: Executor,
        observer: Observer,
        recall: RecallMonitor | None = None,
    ) -> None:
        """``recall`` is told of every search; None: nobody is."""
        self._store = store
        self._models = models
        self._threads = threads
        self._observer = observer
        self._recall = recall

    async def search(self, request: SearchRequest, deadline: Deadline) -> SearchResult:
        """The best documents for a query, with the scores and ranks of every stage.

        Raises:
            CollectionNotFound, ModelNotFound, ModelMismatch, InvalidArgument, InvalidVector, UnsupportedByCollection:
                the request does not fit the collection.
            SequenceNotReached: ``min_sequence`` lies beyond what was committed when time ran out.
            DeadlineExceeded: time ran out before an answer.
            Overloaded, InferenceFailed: a model could not embed the query, or rerank under the policy FAIL.
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
        """Waits for the sequence that a search asks for, so that nothing else has to wait with it.

        Raises:
            CollectionNotFound: there is no such collection.
            SequenceNotReached: it lies beyond what was committed when time ran out, or what can be committed in time.
        """
        async with leased(self._store, request.collection, self._threads) as collection:
            await _reach(collection, request.min_sequence, deadline)

    async def _search(self, request: SearchRequest, deadline: Deadline, watch: SearchWatch) -> SearchResult:
        started = time.perf_counter()
        # Turns in a thread are most of what a search without a model costs; an open collection takes none.
        async with leased(self._store, request.collection, self._threads) as collection:
            run = await self._begin(request, collection, started, deadline, watch)
            return await self._run(run)

    async def _run(self, run: SearchRun) -> SearchResult:
        request = run.request
        selection, lexical = await self._embed_and_match(run)
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            if run.reranker is None:
                retrieved, shortlist, ranked, hits = await self._in_thread(_one_stage, run, selection, lexical, last)
            else:
                retrieved, shortlist = await self._in_thread(_first_stage, run, selection, lexical)
                scores = await _rerank(run, shortlist)
                ranked, hits = await self._in_thread(_second_stage, run, retrieved, shortlist, scores, last)
            if hits is not None:
                break
            run.sequence = run.collection.sequence
            run.degradations.clear()
            selection, lexical = await self._in_thread(match, run)
        assert hits is not None
        if self._recall is not None:
            self._recall.note(run, retrieved)
        account = report(run, retrieved, selection, ranked)
        explanation = await self._in_thread(explain, run, retrieved, shortlist, ranked) if request.explain else None
        return SearchResult(hits=hits, report=account, explanation=explanation)

    async def _begin(
        self,
        request: SearchRequest,
        collection: CollectionStore,
        started: float,
        deadline: Deadline,
        watch: SearchWatch,
    ) -> SearchRun:
        await _reach(collection, request.min_sequence, deadline)
        config = collection.config
        if request.vector is not None and request.vector.shape != (config.dimension,):
            raise InvalidVector(
                f"the query vector has {request.vector.size} values, the collection has {config.dimension} dimensions",
                field="query.vector",
                metadata={"dimension": str(config.dimension)},
            )
        settings = resolve(
            request.settings,
            config.search_defaults,
            reranker=config.reranker,
            has_text=bool(request.text),
            has_vector=request.vector is not None or config.embedder != NO_MODEL,
        )
        _check_mode(settings.mode, request, embeds=config.embedder != NO_MODEL)
        reranker = self._choose_reranker(request, settings, collection)
        needs_vector = request.vector is None and (settings.mode is not RetrievalMode.LEXICAL or reranker is not None)
        needs_tokens = reranker is not None and reranker.info.uses_token_vectors
        embedder = None
        if config.embedder != NO_MODEL and request.text and (needs_vector or needs_tokens):
            embedder = self._models.embedder(config.embedder)
            check_revision(collection, embedder)
        return SearchRun(
            request=request,
            deadline=deadline,
            collection=collection,
            settings=settings,
            embedder=embedder,
            reranker=reranker,
            sequence=collection.sequence,
            started=started,
            watch=watch,
        )

    def _choose_reranker(
        self, request: SearchRequest, settings: SearchSettings, collection: CollectionStore
    ) -> RerankerService | None:
        if settings.rerank is False:
            return None
        demanded = request.settings.rerank is True or request.settings.reranker is not None
        if settings.reranker == NO_MODEL or not request.text:
            if request.settings.rerank is True:
                raise InvalidArgument(
                    "reranking needs a query text and a reranker; the collection has none, so name one in rerank.model"
                    if request.text
                    else "reranking needs a query text",
                    field="rerank.enabled",
                )
            return None
        reranker = self._models.reranker(settings.reranker)
        embedder = collection.config.embedder
        if reranker.info.uses_token_vectors and (
            embedder == NO_MODEL or not self._models.embedder(embedder).info.token_vectors
        ):
            if demanded:
                raise UnsupportedByCollection(
                    f"'{LATE_INTERACTION}' needs token vectors, which embedder '{embedder}' does not give",
                    field="rerank.model",
                )
            return None
        return reranker

    async def _embed_and_match(self, run: SearchRun) -> tuple[Selection | None, LexicalCandidates | None]:
        """Embeds the query while a thread resolves the filter and asks the lexical index."""
        if run.request.filter is None and run.settings.mode is RetrievalMode.DENSE:
            if run.embedder is not None:
                await _embed(run, run.embedder)
            return None, None
        if run.embedder is None:
            return await self._in_thread(match, run)
        matched, _ = await asyncio.gather(self._in_thread(match, run), _embed(run, run.embedder))
        return matched

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs blocking work in a thread, as part of the call: what it logs and traces is the call's."""
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(self._threads, run, function, *arguments)


def check_revision(collection: CollectionStore, embedder: EmbedderService) -> None:
    """Raises ``ModelMismatch`` unless the embedder is the one that made the collection's vectors."""
    stored, loaded = collection.config.embedder_revision, embedder.info.revision
    if stored != loaded and stored not in embedder.info.former_revisions:
        raise ModelMismatch(
            f"collection '{collection.name}' was made with revision {stored[:12]} of embedder "
            f"'{embedder.info.name}', the server has {loaded[:12]}; serve the former model under that name, or make a "
            "new collection and ingest the documents again",
            metadata={"stored_revision": stored, "loaded_revision": loaded},
        )


async def _reach(collection: CollectionStore, sequence: int | None, deadline: Deadline) -> None:
    # A little before the caller's time is up, so that the reason still reaches it.
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


def _check_mode(mode: RetrievalMode, request: SearchRequest, *, embeds: bool) -> None:
    if mode is not RetrievalMode.DENSE and not request.text:
        raise InvalidArgument(f"mode {mode.value} needs a query text", field="query.text")
    if mode is not RetrievalMode.LEXICAL and request.vector is None and not embeds:
        raise UnsupportedByCollection(
            "the collection has no embedder: send query.vector, or search with mode lexical", field="query.vector"
        )


async def _embed(run: SearchRun, embedder: EmbedderService) -> None:
    with run.stage("embed"):
        run.embedding = await embedder.embed_query(
            run.request.text,
            instruction=run.instruction,
            dimension=run.collection.config.dimension,
            deadline=run.deadline,
        )


def _first_stage(
    run: SearchRun, selection: Selection | None, lexical: LexicalCandidates | None
) -> tuple[Retrieved, Shortlist]:
    """Retrieves, and reads what the reranker needs: one turn in a thread for both."""
    retrieved = retrieve(run, selection, lexical)
    return retrieved, fetch(run, retrieved)


def _one_stage(
    run: SearchRun, selection: Selection | None, lexical: LexicalCandidates | None, last_attempt: bool
) -> tuple[Retrieved, Shortlist, Ranked, list[Hit] | None]:
    """The whole of a search that is not reranked: one turn in a thread."""
    retrieved, shortlist = _first_stage(run, selection, lexical)
    return retrieved, shortlist, *_second_stage(run, retrieved, shortlist, None, last_attempt)


async def _rerank(run: SearchRun, shortlist: Shortlist) -> RerankScores | None:
    """The reranker's scores; None where there are none, be it by plan or, under the policy DEGRADE, by failure."""
    if run.reranker is None or not shortlist.candidates:
        return None
    try:
        with run.stage("rerank"):
            scores = await run.reranker.rerank(
                run.rerank_query,
                shortlist.candidates,
                Deadline.after(max(0.0, run.deadline.left_seconds()) * run.settings.rerank_deadline_share),
            )
    except ShortlistError as error:
        if run.settings.rerank_on_failure is RerankFailurePolicy.FAIL or run.deadline.passed():
            raise
        late = isinstance(error, DeadlineExceeded)
        kind = DegradationKind.RERANK_SKIPPED if late else DegradationKind.RERANK_FAILED
        run.degradations.append(Degradation(kind=kind, message=error.message))
        return None
    run.rerank_tokens += scores.tokens
    if len(scores.scores) < len(shortlist.candidates):
        note_partial(run, len(scores.scores), len(shortlist.candidates))
    return scores


def _second_stage(
    run: SearchRun, retrieved: Retrieved, shortlist: Shortlist, scores: RerankScores | None, last_attempt: bool
) -> tuple[Ranked, list[Hit] | None]:
    """Orders by the reranker's scores and reads the answer: one turn in a thread for both."""
    ranked = blended(run, retrieved.fused, shortlist, scores)
    return ranked, answer(run, retrieved, ranked, last_attempt)
