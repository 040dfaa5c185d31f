"""One search under way: what the stages hand to each other.

A ``SearchRun`` belongs to one search; its stages run one after the other or, where side by side, touch different parts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from shortlist_server.domain import Deadline, Degradation, DenseCandidates, RerankScore, SearchRequest, Vector
from shortlist_server.errors import DeadlineExceeded
from shortlist_server.inference.base import (
    EmbedderService,
    QueryEmbedding,
    RerankCandidate,
    RerankerService,
    RerankQuery,
)
from shortlist_server.observe.observer import SearchWatch
from shortlist_server.pipeline.fusion import Fused, StageScores
from shortlist_server.pipeline.settings import SearchSettings
from shortlist_server.storage.base import CollectionStore


@dataclass(slots=True)
class SearchRun:
    """One search under way: what it was asked, what it runs with and what it has spent."""

    request: SearchRequest
    deadline: Deadline
    collection: CollectionStore
    settings: SearchSettings
    embedder: EmbedderService | None
    reranker: RerankerService | None
    sequence: int
    started: float
    watch: SearchWatch
    seconds: dict[str, float] = field(default_factory=dict)
    degradations: list[Degradation] = field(default_factory=list)
    embedding: QueryEmbedding | None = None
    rerank_tokens: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times and reports a stage, and refuses to begin it when the caller's time is up."""
        if self.deadline.passed():
            raise DeadlineExceeded(f"the deadline passed before the stage '{name}'", metadata={"stage": name})
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self.watch.stage(name, seconds)

    @property
    def wanted(self) -> int:
        """Hits the answer needs, the skipped ones included."""
        return self.request.limit + self.request.offset

    @property
    def dense_candidates(self) -> int:
        """Documents the dense index is asked for."""
        return max(self.settings.dense_candidates, self.wanted)

    @property
    def instruction(self) -> str:
        """The embedder's instruction: the request's, else the collection's; "" for the model's default."""
        return self.request.instruction or self.collection.config.query_instruction

    @property
    def rerank_query(self) -> RerankQuery:
        """The query as the reranker is given it."""
        return RerankQuery(
            text=self.request.text,
            instruction=self.settings.rerank_instruction or self.request.instruction,
            token_vectors=None if self.embedding is None else self.embedding.token_vectors,
            deadline=self.deadline,
        )

    @property
    def vector(self) -> Vector | None:
        """The query vector: the caller's own, else the embedding of the text."""
        if self.request.vector is not None:
            return self.request.vector
        return None if self.embedding is None else self.embedding.vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """What the first stage found. ``passages``: for each document its passages as (label, cosine), best first."""

    dense: StageScores | None
    lexical: StageScores | None
    candidates: DenseCandidates | None
    fused: Fused
    passages: dict[int, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortlist:
    """What is reranked: ``keys`` in fused order, and their passages as ``pairs`` (key, label) with what the reranker
    reads of each, document after document."""

    keys: Sequence[int]
    pairs: Sequence[tuple[int, int]]
    candidates: Sequence[RerankCandidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """The final ranking: keys and scores, best first; rerank scores by key, and of passages by label."""

    keys: list[int]
    scores: list[float]
    reranked: dict[int, RerankScore]
    passages: dict[int, float]
