"""Collections: their settings, their size, and the recall of their searches."""

from __future__ import annotations

import enum
from dataclasses import dataclass

NO_MODEL = "none"
"""The embedder name of a collection of client-made vectors, and the reranker name for no second stage."""

LATE_INTERACTION = "late-interaction"
"""The reranker that scores token vectors of the embedder, without a model of its own."""


class OverflowPolicy(enum.Enum):
    """What happens to text that does not fit one passage."""

    CHUNK = "chunk"
    TRUNCATE = "truncate"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """Size of passages in tokens of the embedder, including the title and special tokens."""

    max_tokens: int
    overlap_tokens: int


class RetrievalMode(enum.Enum):
    """Which indexes a search asks."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


class FusionMethod(enum.Enum):
    """How two rankings become one."""

    WEIGHTED_SUM = "weighted_sum"
    RRF = "rrf"


class RerankFailurePolicy(enum.Enum):
    """What happens when a rerank stage fails or runs out of time."""

    DEGRADE = "degrade"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankStage:
    """The settings of one rerank stage; ``None`` means "not set": the collection's reranker, and its own defaults."""

    model: str | None = None
    depth: int | None = None
    weight: float | None = None
    instruction: str | None = None
    deadline_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchDefaults:
    """Settings of a search. ``None`` means "not set here": the next level (request, collection, server) decides.

    Only a collection sets ``recall_target``.

    Attributes:
        rerank_stages: at least one stage. Excludes the fields of one stage (``reranker``, ``rerank_depth``,
            ``rerank_weight``, ``rerank_instruction``, ``rerank_deadline_share``) on the same level.
    """

    mode: RetrievalMode | None = None
    dense_candidates: int | None = None
    lexical_candidates: int | None = None
    ef: int | None = None
    exact: bool | None = None
    fusion: FusionMethod | None = None
    dense_weight: float | None = None
    rrf_k: int | None = None
    rerank: bool | None = None
    reranker: str | None = None
    rerank_depth: int | None = None
    rerank_weight: float | None = None
    rerank_instruction: str | None = None
    rerank_on_failure: RerankFailurePolicy | None = None
    rerank_deadline_share: float | None = None
    rerank_stages: tuple[RerankStage, ...] | None = None
    recall_target: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionConfig:
    """What a collection was created with, every default filled in.

    Attributes:
        embedder: name of the embedder; "none" where clients supply all vectors.
        embedder_revision: revision of the model that makes the vectors; "" with embedder "none".
        dimension: size of every vector.
        reranker: name of the reranker; "none" for no reranking by default.
        filterable_fields: metadata paths that have an index.
    """

    embedder: str
    embedder_revision: str
    dimension: int
    reranker: str
    chunking: Chunking
    overflow: OverflowPolicy = OverflowPolicy.CHUNK
    filterable_fields: tuple[str, ...] = ()
    query_instruction: str = ""
    search_defaults: SearchDefaults = SearchDefaults()


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionInfo:
    """A collection and its size, at one moment.

    Attributes:
        generation: number of the generation that serves; passages and segments are its own.
        disk_bytes: of all generations.
    """

    name: str
    config: CollectionConfig
    create_time_seconds: float
    sequence: int
    document_count: int
    passage_count: int
    segment_passage_count: int
    segment_count: int
    disk_bytes: int
    generation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallEstimate:
    """Share of the nearest documents that dense searches find; ``pipeline/recall.py`` says which searches count.

    Attributes:
        ef: the present ``ef`` of such searches.
        recall: mean recall@10 at this ``ef``, 0 to 1; None before the first check.
        lower, upper: its 95 % confidence interval; 0 and 1 before the first check.
        query_count: queries behind the estimate.
        check_count: queries checked since the server started, at any ``ef``.
    """

    ef: int
    recall: float | None = None
    lower: float = 0.0
    upper: float = 1.0
    query_count: int = 0
    check_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRecall:
    """The recall of a collection's searches without and with a filter, and the least that it should be."""

    collection: str
    target: float
    unfiltered: RecallEstimate
    filtered: RecallEstimate
