"""A search: the request and the result."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shortlist_server.domain.collections import RetrievalMode, SearchDefaults
from shortlist_server.domain.documents import Include, StoredDocument, StoredPassage
from shortlist_server.domain.explanation import Explanation
from shortlist_server.domain.filters import Filter
from shortlist_server.domain.names import Vector
from shortlist_server.domain.retrieval import DenseStrategy
from shortlist_server.domain.scores import RerankScore, StageScore


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A validated search. ``settings`` holds what the request itself set; the pipeline fills in the rest.

    Attributes:
        vector: the query's embedding with norm 1, or None; the pipeline checks its dimension.
        generation: number of the generation to search; 0: the one that serves.
        instruction: "" for the generation's.
        max_answer_bytes: most bytes of texts and vectors in the answer; 0: no limit.
        fresh_embedding: whether to embed the query even where the cache has its embedding, to measure the time.
    """

    collection: str
    text: str = ""
    vector: Vector | None = None
    generation: int = 0
    limit: int = 10
    offset: int = 0
    instruction: str = ""
    settings: SearchDefaults = SearchDefaults()
    filter: Filter | None = None
    include: Include = Include()
    min_score: float | None = None
    min_sequence: int | None = None
    explain: bool = False
    explain_texts: bool = False
    max_answer_bytes: int = 0
    fresh_embedding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageHit:
    """A passage that matched.

    Attributes:
        dense_score: None in a search without a query vector.
        rerank_scores: raw scores by the number of the rerank stage, from 1; empty where none scored the passage.
    """

    passage: StoredPassage
    dense_score: float | None
    rerank_scores: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A document found, with its scores in every stage; ``reranks`` has those rerank stages that scored it."""

    rank: int
    score: float
    dense: StageScore | None
    lexical: StageScore | None
    fused: StageScore
    reranks: Sequence[RerankScore]
    document: StoredDocument
    passages: Sequence[PassageHit]


class DegradationKind(enum.Enum):
    """Ways in which an answer has less than the search asked for."""

    RERANK_FAILED = "rerank_failed"
    RERANK_PARTIAL = "rerank_partial"
    RERANK_SKIPPED = "rerank_skipped"
    LEXICAL_BOUNDED = "lexical_bounded"
    EMBEDDER_MISSING = "embedder_missing"
    GENERATION_INCOMPLETE = "generation_incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """What was lost, and a sentence that explains it.

    ``stage`` is the number of the rerank stage, from 1; 0 where it is not about one alone.
    """

    kind: DegradationKind
    message: str
    stage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A model, by the name it is served under and its whole revision."""

    name: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankStageReport:
    """What one rerank stage did.

    Attributes:
        stage: its place in the list of stages, from 1.
        depth, weight: the settings it ran with.
        reranked: documents that it scored.
        tokens: tokens that the model read.
        fetch_seconds, rerank_seconds: of reading the shortlist, and of scoring it.
    """

    stage: int
    model: ModelVersion
    depth: int
    weight: float
    reranked: int
    tokens: int
    fetch_seconds: float
    rerank_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """What one search did. ``stage_seconds`` has those stages that ran: embed, filter, lexical, dense, fuse, fetch,
    rerank, group; those of all rerank stages are summed. ``generation`` is the number of the generation that was
    searched. ``embedder`` is None where the search used none."""

    total_seconds: float
    stage_seconds: Mapping[str, float]
    mode: RetrievalMode
    dense_strategy: DenseStrategy | None
    dense_candidates: int
    lexical_candidates: int
    fused_candidates: int
    rerank_stages: Sequence[RerankStageReport]
    filter_matches: int | None
    query_tokens: int
    query_truncated_tokens: int
    sequence: int
    generation: int
    embedder: ModelVersion | None
    degradations: Sequence[Degradation]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits, best first, and how the search found them. The explanation is set only on request."""

    hits: Sequence[Hit]
    report: SearchReport
    explanation: Explanation | None = None
