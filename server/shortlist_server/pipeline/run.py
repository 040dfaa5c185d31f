"""A running search: what its stages hand to each other.

A ``SearchRun`` belongs to one search. Stages that run side by side touch different parts of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shortlist_server.domain import Deadline, Degradation, SearchRequest, Vector
from shortlist_server.errors import DeadlineExceeded
from shortlist_server.inference.base import QueryEmbedding, RerankQuery
from shortlist_server.observe.observer import SearchWatch
from shortlist_server.pipeline.plan import Plan
from shortlist_server.storage.base import CollectionStore, GenerationReader


@dataclass(slots=True)
class SearchRun:
    """A running search: its request, its settings, and what it has done so far.

    Attributes:
        generation: the generation that the search reads from beginning to end, whatever is switched meanwhile.
        sequence: the collection's when the search last began to read.
    """

    request: SearchRequest
    deadline: Deadline
    collection: CollectionStore
    generation: GenerationReader
    plan: Plan
    sequence: int
    started: float
    watch: SearchWatch
    seconds: dict[str, float] = field(default_factory=dict)
    degradations: list[Degradation] = field(default_factory=list)
    embedding: QueryEmbedding | None = None
    rerank_tokens: int = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times and reports a stage; refuses to begin it when the caller's time is up."""
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
    def rerank_query(self) -> RerankQuery:
        """The query for the reranker."""
        return RerankQuery(
            text=self.request.text,
            instruction=self.plan.rerank_instruction,
            token_vectors=None if self.embedding is None else self.embedding.token_vectors,
            deadline=self.deadline,
        )

    @property
    def vector(self) -> Vector | None:
        """The query vector: the caller's own, else the embedding of the text."""
        if self.request.vector is not None:
            return self.request.vector
        return None if self.embedding is None else self.embedding.vector
