"""Engines behind their lanes, for the pipeline to call.

The coroutines run on the server's event loop and never block it; the other methods block. Cancelling a coroutine drops
its work from the queue.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, Deadline, OverflowPolicy, Vector
from shortlist_server.errors import DeadlineExceeded, InferenceFailed, InvalidArgument
from shortlist_server.inference.base import (
    NO_DEADLINE,
    CutText,
    Embedder,
    EmbedderInfo,
    PassageEmbedding,
    PassageText,
    QueryEmbedding,
    QueryText,
    RenderedCandidate,
    RerankCandidate,
    Reranker,
    RerankerInfo,
    RerankQuery,
    RerankScores,
)
from shortlist_server.inference.lane import Lane, LaneLimits
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.query_cache import QueryCache, QueryKey
from shortlist_server.observe.observer import Observer

T = TypeVar("T")

QUERY_LIMITS = LaneLimits(batch_cost=1024, batch_items=8, window_batches=1, queue_cost=262_144)
PASSAGE_LIMITS = LaneLimits(batch_cost=2048, batch_items=64, window_batches=16, queue_cost=1_048_576, niceness=10)
"""Batches are small, because a query that arrives while one runs shares the processor with it."""

RERANK_LIMITS = LaneLimits(batch_cost=1, batch_items=1, window_batches=1, queue_cost=128)


@dataclass(frozen=True, slots=True, kw_only=True)
class _PassageWork:
    content: str
    dimension: int
    token_vectors: bool


class ScheduledEmbedder:
    """An ``EmbedderService`` over an engine. It owns the engine's lanes and its query cache.

    Args:
        label: its name in metrics, traces and threads; "" for the model's name.
        precedence: shared with the embedders that run on the same processor.
    """

    def __init__(
        self,
        engine: Embedder,
        *,
        query_limits: LaneLimits = QUERY_LIMITS,
        passage_limits: LaneLimits = PASSAGE_LIMITS,
        observer: Observer | None = None,
        label: str = "",
        precedence: Precedence | None = None,
    ) -> None:
        self._engine = engine
        self._cache = QueryCache()
        name, observer = label or engine.info.name, observer or Observer()
        observer.watch_cache(name, lambda: self._cache.counts)
        self._queries: Lane[QueryText, QueryEmbedding] = Lane(
            f"embed-query-{name}", self._run_queries, query_limits, observer.lane(name, "query")
        )
        self._passages: Lane[_PassageWork, PassageEmbedding] = Lane(
            f"embed-passage-{name}", self._run_passages, passage_limits, observer.lane(name, "passage"), precedence
        )

    @property
    def info(self) -> EmbedderInfo:
        """See ``EmbedderService.info``."""
        return self._engine.info

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """See ``EmbedderService.cut``."""
        return self._engine.cut(title, text, chunking, overflow)

    def render_query(self, text: str, *, instruction: str, deadline: Deadline = NO_DEADLINE) -> str:
        """See ``EmbedderService.render_query``."""
        return self._engine.render_query(self._query(text, instruction, deadline))

    async def embed_query(
        self, text: str, *, instruction: str, dimension: int, deadline: Deadline, fresh: bool = False
    ) -> QueryEmbedding:
        """See ``EmbedderService.embed_query``."""
        _check_dimension(dimension, self.info)
        query = self._query(text, instruction, deadline)
        key = QueryKey(self.info.revision, query.instruction, text, dimension)
        if not fresh and (cached := self._cache.get(key)) is not None:
            return cached
        # The lane tokenises the query, off the event loop. A third of its length is close for most languages.
        cost = min(len(text) // 3 + 4, self.info.max_tokens)
        (future,) = self._queries.submit([(query, cost)], deadline)
        embedding = await _wait(future, deadline)
        embedding = dataclasses.replace(embedding, vector=shorten(embedding.vector, dimension))
        self._cache.put(key, embedding)
        return embedding

    async def embed_passages(
        self, passages: Sequence[PassageText], *, dimension: int, token_vectors: bool, background: bool = False
    ) -> Sequence[PassageEmbedding | Exception]:
        """See ``EmbedderService.embed_passages``."""
        _check_dimension(dimension, self.info)
        work = [
            (_PassageWork(content=passage.content, dimension=dimension, token_vectors=token_vectors), passage.tokens)
            for passage in passages
        ]
        futures = self._passages.submit(work, NO_DEADLINE, background=background)
        results = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
        return [r if isinstance(r, PassageEmbedding | Exception) else InferenceFailed(str(r)) for r in results]

    def close(self) -> None:
        """Fails queued work with ``Unavailable``. Idempotent."""
        self._queries.close()
        self._passages.close()

    def _query(self, text: str, instruction: str, deadline: Deadline) -> QueryText:
        instruction = instruction if self.info.takes_instruction else ""
        return QueryText(text=text, instruction=instruction, deadline=deadline)

    def _run_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding | Exception]:
        return [_checked(one) for one in self._engine.embed_queries(queries)]

    def _run_passages(self, works: Sequence[_PassageWork]) -> Sequence[PassageEmbedding | Exception]:
        # One batch may mix collections with and without token vectors.
        wanted = any(work.token_vectors for work in works)
        embedded = self._engine.embed_passages([work.content for work in works], token_vectors=wanted)
        return [_for_collection(one, work) for one, work in zip(embedded, works, strict=True)]


class ScheduledReranker:
    """A ``RerankerService`` over an engine. It scores requests one after the other."""

    def __init__(self, engine: Reranker, limits: LaneLimits = RERANK_LIMITS, observer: Observer | None = None) -> None:
        self._engine = engine
        name, observer = engine.info.name, observer or Observer()
        self._lane: Lane[_RerankWork, RerankScores] = Lane(
            f"rerank-{name}", self._run, limits, observer.lane(name, "rerank")
        )

    @property
    def info(self) -> RerankerInfo:
        """See ``RerankerService.info``."""
        return self._engine.info

    async def rerank(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], deadline: Deadline
    ) -> RerankScores:
        """See ``RerankerService.rerank``."""
        query = dataclasses.replace(query, deadline=deadline)
        work = _RerankWork(query=query, candidates=candidates, gone=threading.Event())
        (future,) = self._lane.submit([(work, 1)], deadline)
        try:
            scores = await _wait(future, deadline)
        finally:
            work.gone.set()
        if candidates and not len(scores.scores):
            raise DeadlineExceeded("the deadline passed before a candidate was reranked")
        return scores

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """See ``RerankerService.render``."""
        return self._engine.render(query, candidates)

    def close(self) -> None:
        """Fails queued work with ``Unavailable``. Idempotent."""
        self._lane.close()

    def _run(self, works: Sequence[_RerankWork]) -> Sequence[RerankScores | Exception]:
        scored = [(work, self._engine.score(work.query, work.candidates, work.may_continue)) for work in works]
        return [_checked_scores(scores, work.candidates, self.info) for work, scores in scored]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RerankWork:
    query: RerankQuery
    candidates: Sequence[RerankCandidate]
    gone: threading.Event

    def may_continue(self, seconds: float) -> bool:
        return not self.gone.is_set() and self.query.deadline.left_seconds() > seconds


def shorten(vector: Vector, dimension: int) -> Vector:
    """The first ``dimension`` components, scaled back to norm 1 (Matryoshka representation learning)."""
    if dimension == len(vector):
        return vector
    part = vector[:dimension]
    return np.asarray(part / max(float(np.linalg.norm(part)), 1e-12), dtype=np.float32)


def _check_dimension(dimension: int, info: EmbedderInfo) -> None:
    if not info.min_dimension <= dimension <= info.dimension:
        raise InvalidArgument(
            f"{info.name!r} makes vectors of {info.min_dimension} to {info.dimension} dimensions, not {dimension}",
            field="config.dimension",
        )


def _is_finite(values: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(values).all())


def _not_finite() -> InferenceFailed:
    return InferenceFailed("the model made a vector that is not finite: another text may work")


def _checked(embedding: QueryEmbedding) -> QueryEmbedding | InferenceFailed:
    tokens = embedding.token_vectors
    return embedding if _is_finite(embedding.vector) and (tokens is None or _is_finite(tokens)) else _not_finite()


def _checked_scores(
    scores: RerankScores, candidates: Sequence[RerankCandidate], info: RerankerInfo
) -> RerankScores | InferenceFailed:
    """The scores if all are finite. Candidates that lack the token vectors a reranker reads may have NaN."""
    scored = candidates[: len(scores.scores)]
    unscored = np.array([info.uses_token_vectors and one.token_vectors is None for one in scored], dtype=np.bool_)
    values = [scores.scores] if scores.probabilities is None else [scores.scores, scores.probabilities]
    if all((np.isfinite(row) | unscored).all() for row in values):
        return scores
    return InferenceFailed(f"the reranker {info.name!r} gave a score that is not finite: other passages may work")


def _for_collection(embedding: PassageEmbedding | Exception, work: _PassageWork) -> PassageEmbedding | Exception:
    if isinstance(embedding, Exception):
        return embedding
    if not _is_finite(embedding.vector):
        return _not_finite()
    return dataclasses.replace(
        embedding,
        vector=shorten(embedding.vector, work.dimension),
        token_vectors=embedding.token_vectors if work.token_vectors else None,
    )


async def _wait(future: Future[T], deadline: Deadline) -> T:
    """The future's result. At the deadline the wait ends, and the work is dropped if it is still queued."""
    left = deadline.left_seconds()
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), None if left == float("inf") else max(left, 0.0))
    except TimeoutError as error:
        raise DeadlineExceeded("the deadline passed before the model was done") from error
