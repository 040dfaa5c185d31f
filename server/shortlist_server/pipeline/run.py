"""A running search: what its stages hand to each other.

A ``SearchRun`` belongs to one search. Stages that run side by side touch different parts of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Deadline, Degradation, SearchRequest, Vector
from shortlist_server.errors import DeadlineExceeded
from shortlist_server.inference.base import QueryEmbedding, RerankCandidate, RerankQuery, RerankScores
from shortlist_server.observe.observer import SearchWatch
from shortlist_server.pipeline.plan import Plan
from shortlist_server.pipeline.stages import PlannedStage
from shortlist_server.storage.base import CollectionStore, GenerationReader


@dataclass(slots=True, kw_only=True)
class Shortlist:
    """What one rerank stage gets, and what its reranker made of it.

    Attributes:
        rows: shape (d,), int64: the candidates that it is to rerank, in the order before the stage.
        passage_rows, passage_ids: shape (m,), int64: the passages that the reranker reads, in the order of ``rows``.
        inputs: what it reads of each of them.
        scores: of the first of these passages; None where it gave none.
        failed: whether it failed for another reason than the time.
        seconds: of reading and of scoring the shortlist, as "fetch" and "rerank".
    """

    stage: PlannedStage
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    passage_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    passage_ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    inputs: Sequence[RerankCandidate] = ()
    scores: RerankScores | None = None
    failed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def scored(self) -> int:
        """How many of the passages have a score."""
        return 0 if self.scores is None else len(self.scores.scores)


@dataclass(slots=True)
class SearchRun:
    """A running search: its request, its settings, and what it has done so far.

    Attributes:
        generation: the generation that the search reads from beginning to end, whatever is switched meanwhile.
        sequence: the collection's when the search last began to read.
        shortlists: of the rerank stages, in their order.
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
    shortlists: list[Shortlist] = field(default_factory=list)

    def start_over(self) -> None:
        """Forgets what was found: the search begins anew, on the collection as it is now."""
        self.sequence = self.collection.sequence
        self.degradations[:] = self.plan.degradations
        self.shortlists.clear()

    @contextmanager
    def stage(self, name: str, also: dict[str, float] | None = None) -> Iterator[None]:
        """Times and reports a stage; refuses to begin it when the caller's time is up.

        Args:
            name: the stage's name in reports, metrics and traces.
            also: gets the time too, by the name.
        """
        if self.deadline.passed():
            raise DeadlineExceeded(f"the deadline passed before the stage '{name}'", metadata={"stage": name})
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            if also is not None:
                also[name] = seconds
            self.watch.stage(name, seconds)

    def rerank_query(self, stage: PlannedStage) -> RerankQuery:
        """The query for the reranker of a stage."""
        return RerankQuery(
            text=self.request.text,
            instruction=stage.instruction,
            token_vectors=None if self.embedding is None else self.embedding.token_vectors,
            deadline=self.deadline,
        )

    @property
    def vector(self) -> Vector | None:
        """The query vector: the caller's own, else the embedding of the text."""
        if self.request.vector is not None:
            return self.request.vector
        return None if self.embedding is None else self.embedding.vector
