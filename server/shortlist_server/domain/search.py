"""A search: what is asked, and what is answered."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shortlist_server.domain.collections import RetrievalMode, SearchDefaults
from shortlist_server.domain.documents import Parts, StoredDocument, StoredPassage
from shortlist_server.domain.explanation import Explanation
from shortlist_server.domain.filters import Filter
from shortlist_server.domain.names import Vector
from shortlist_server.domain.retrieval import DenseStrategy
from shortlist_server.domain.scores import RerankScore, StageScore


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A search, validated. ``settings`` holds what the request itself set; the pipeline fills in the rest.

    Attributes:
        vector: the query's embedding, norm 1, of the collection's dimension (checked by the pipeline), or None.
        instruction: "" for the collection's.
        max_answer_bytes: texts and vectors of the answer have at most so many; 0: any.
    """

    collection: str
    text: str = ""
    vector: Vector | None = None
    limit: int = 10
    offset: int = 0
    instruction: str = ""
    settings: SearchDefaults = SearchDefaults()
    filter: Filter | None = None
    parts: Parts = Parts()
    min_score: float | None = None
    min_sequence: int | None = None
    explain: bool = False
    explain_texts: bool = False
    max_answer_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageHit:
    """A passage that matched; scores are None where the stage did not score it."""

    passage: StoredPassage
    dense_score: float | None
    rerank_score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A document found, with its account of every stage."""

    rank: int
    score: float
    dense: StageScore | None
    lexical: StageScore | None
    fused: StageScore
    rerank: RerankScore | None
    document: StoredDocument
    passages: Sequence[PassageHit]


class DegradationKind(enum.Enum):
    """Ways in which an answer is less than what was asked."""

    RERANK_FAILED = "rerank_failed"
    RERANK_PARTIAL = "rerank_partial"
    RERANK_SKIPPED = "rerank_skipped"
    LEXICAL_BOUNDED = "lexical_bounded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """What was lost, and a sentence about it."""

    kind: DegradationKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A model, by the name it is served under and its whole revision."""

    name: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """An account of one search. ``stage_seconds`` has the stages that ran: embed, filter, dense, lexical, fuse, fetch,
    rerank, group. ``embedder`` and ``reranker`` are None where the search used none."""

    total_seconds: float
    stage_seconds: Mapping[str, float]
    mode: RetrievalMode
    dense_strategy: DenseStrategy | None
    dense_candidates: int
    lexical_candidates: int
    fused_candidates: int
    reranked: int
    filter_matches: int | None
    query_tokens: int
    query_truncated_tokens: int
    rerank_tokens: int
    sequence: int
    embedder: ModelVersion | None
    reranker: ModelVersion | None
    degradations: Sequence[Degradation]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits, best first, and how they came about; the explanation where it was asked for."""

    hits: Sequence[Hit]
    report: SearchReport
    explanation: Explanation | None = None
