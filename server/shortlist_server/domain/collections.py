"""Collections: what they are made with, what is in them, and how well they are searched."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class OverflowPolicy(enum.Enum):
    """What happens to text that does not fit one passage."""

    CHUNK = "chunk"
    TRUNCATE = "truncate"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """Size of passages, in tokens of the embedder, title and special tokens included."""

    max_tokens: int
    overlap_tokens: int


class RetrievalMode(enum.Enum):
    """Which indexes are asked."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


class FusionMethod(enum.Enum):
    """How two rankings become one."""

    CONVEX = "convex"
    RRF = "rrf"


class RerankFailurePolicy(enum.Enum):
    """What happens when the second stage fails or has no time left."""

    DEGRADE = "degrade"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchDefaults:
    """Settings of a search; ``None`` means "not set here": the next level decides (request, collection, server).

    ``recall_target`` is a collection's alone.
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
    recall_target: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionConfig:
    """What a collection was made with, every default filled in.

    Attributes:
        embedder: name of the embedder; "none" for client-made vectors only.
        embedder_revision: revision of the model that made the vectors; "" with embedder "none".
        dimension: size of every vector.
        reranker: name of the reranker; "none" for no second stage by default.
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
    """A collection and its size, at one moment."""

    name: str
    config: CollectionConfig
    create_time_seconds: float
    sequence: int
    document_count: int
    passage_count: int
    segment_passage_count: int
    segment_count: int
    disk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallEstimate:
    """How much of what is nearest a collection's dense searches find; ``pipeline/recall.py`` says of which searches.

    Attributes:
        ef: the `ef` of such searches now.
        recall: mean recall@10 at this ``ef``, 0 to 1; None before the first check.
        lower, upper: its 95 % confidence interval; 0 and 1 before the first check.
        query_count: queries the estimate rests on.
        check_count: queries checked since the server started, with any ``ef``.
    """

    ef: int
    recall: float | None = None
    lower: float = 0.0
    upper: float = 1.0
    query_count: int = 0
    check_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRecall:
    """The recall of a collection's searches without and with a filter, and what it is to be at least."""

    collection: str
    target: float
    unfiltered: RecallEstimate
    filtered: RecallEstimate
