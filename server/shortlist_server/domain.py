"""The values that travel between the rooms of the server.

Frozen, without behaviour beyond small derivations; safe to share between threads. Units are in the names. The names are
those of the proto, so that ``rpc/convert`` is a plain translation.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NewType

import numpy as np
from numpy.typing import NDArray

Label = NewType("Label", int)
"""Identifies a passage in a collection; from 1, increasing, never reused. A replaced document gets new labels."""

DocumentKey = NewType("DocumentKey", int)
"""Identifies one version of a document in a collection; from 1, increasing, never reused."""

SequenceNumber = NewType("SequenceNumber", int)
"""Number of a change in a collection; from 1, increasing. 0 means "nothing yet"."""

Vector = NDArray[np.float32]
"""Shape (dimension,), finite, L2 norm 1."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


# ---------------------------------------------------------------------------------------------------------- collections


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
        ef: breadth of such searches now.
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


# ------------------------------------------------------------------------------------------------------------ documents


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document as a client gives it. ``vector`` is the client's own, not yet normalised, or None."""

    id: str
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPassage:
    """A passage to store.

    Attributes:
        start, end: the passage in the document's text, in code points, end exclusive.
        vector: shape (dimension,), float32, norm 1.
        tokens: tokens the embedder saw.
        token_vectors: packed for late interaction (``inference/late_interaction.py`` knows the format), or None.
    """

    start: int
    end: int
    vector: Vector
    tokens: int
    token_vectors: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsert:
    """Insert or replace a document. ``content_hash`` covers it and the model revision: equal hash, equal vectors."""

    document: Document
    passages: Sequence[NewPassage]
    content_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """Delete the document with this id, if it exists."""

    id: str


Change = Upsert | Deletion


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPosition:
    """The position of a named ingest stream, committed together with its changes."""

    stream: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A document that an ingest stream could not take.

    Attributes:
        number: identifies the failure in the collection, from 1; 0 before it is stored.
        id: as the client sent it, well-formed or not.
        stream: "" for an unnamed stream.
        reason, message, field, retryable: of the error.
        document: the document as the edge serialised it, or None when it was too large to keep.
    """

    number: int = 0
    id: str
    stream: str
    position: int
    time_seconds: float
    reason: str
    message: str
    field: str
    retryable: bool
    document: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a commit did.

    Attributes:
        sequences: for each change its sequence. A later change of the same commit to the same id supersedes an
            earlier one, which then has the sequence of the later.
        superseded: for each change whether a later one of the same commit superseded it.
        existed: for each change whether a document with the id existed before the commit.
        last_sequence: the collection's sequence after the commit.
    """

    sequences: Sequence[int]
    superseded: Sequence[bool]
    existed: Sequence[bool]
    last_sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which parts of documents to read."""

    text: bool = True
    metadata: bool = True
    passages: bool = False
    vectors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPassage:
    """A passage as stored. ``vector`` and ``token_vectors`` only where asked for."""

    label: int
    key: int
    ordinal: int
    start: int
    end: int
    tokens: int
    vector: Vector | None = None
    token_vectors: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as stored; parts that were not asked for are empty."""

    key: int
    id: str
    sequence: int
    passage_count: int
    title: str = ""
    text: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    passages: Sequence[StoredPassage] = ()


# -------------------------------------------------------------------------------------------------------------- filters

Scalar = str | float | bool
"""A value to compare with. ``bool`` is tested before number: True is not 1."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """True when all filters are true."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True when at least one filter is true."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """True when the filter is false."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class Equals:
    """True when the field is a scalar equal to the value."""

    path: tuple[str, ...]
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """True when the field is a scalar equal to one of the values."""

    path: tuple[str, ...]
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """True when the field is of the bounds' type, string or number, and within them."""

    path: tuple[str, ...]
    lower: str | float | None = None
    lower_inclusive: bool = True
    upper: str | float | None = None
    upper_inclusive: bool = True


@dataclass(frozen=True, slots=True)
class Exists:
    """True when the field is present and not null."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contains:
    """True when the field is a list with an element equal to the value."""

    path: tuple[str, ...]
    value: Scalar


Filter = AllOf | AnyOf | Negation | Equals | OneOf | Range | Exists | Contains
"""A condition on metadata, never unknown: a leaf is false where the field is missing or of another type.

Hashable, so that a resolved filter can be cached. Python holds ``1 == True``: a cache key must tell them apart."""


# --------------------------------------------------------------------------------------------------------------- search


class DenseStrategy(enum.Enum):
    """How the dense stage was run."""

    HNSW = "hnsw"
    HNSW_OVERFETCH = "hnsw_overfetch"
    EXACT = "exact"
    EXACT_FALLBACK = "exact_fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSource:
    """How one part of the dense index was asked.

    Attributes:
        name: the segment's id, or "tail".
        passages: those in it, deleted ones included.
        matches: those that pass the filter, as counted beforehand; None without a filter.
        breadth: passages its graph was asked for; 0 where it was not asked.
        found: passages it gave.
    """

    name: str
    passages: int
    matches: int | None
    breadth: int
    found: int
    strategy: DenseStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseCandidates:
    """Passages of the dense stage, best first.

    Attributes:
        labels: shape (n,), int64.
        keys: shape (n,), int64: the document of each passage; a document may come several times.
        scores: shape (n,), float32: cosine similarity, descending.
        strategy: how they were found.
        asked: passages that each source was asked for.
        sources: how each part of the index was asked, at last; empty where an engine does not tell.
    """

    labels: NDArray[np.int64]
    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    strategy: DenseStrategy
    asked: int = 0
    sources: Sequence[DenseSource] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LexicalCandidates:
    """Documents of the lexical stage, best first.

    Attributes:
        keys: shape (n,), int64, distinct.
        scores: shape (n,), float32: BM25, larger is better, descending.
        bounded: whether frequent query terms were left out to bound the cost.
    """

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    bounded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """A search, validated. ``settings`` holds what the request itself set; the pipeline fills in the rest.

    Attributes:
        vector: the query's embedding, norm 1, of the collection's dimension (checked by the pipeline), or None.
        instruction: "" for the collection's.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScore:
    """Score, rank from 1 (0: scored but not ranked) and min-max normalised score in one stage."""

    score: float
    rank: int
    normalized: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankScore:
    """A document's score in the rerank stage. ``probability`` is None where the reranker has none."""

    score: float
    rank: int
    normalized: float
    probability: float | None
    truncated_tokens: int


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
class SearchReport:
    """An account of one search. ``stage_seconds`` has the stages that ran: embed, filter, dense, lexical, fuse, fetch,
    rerank, group."""

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
    embedder: str
    reranker: str
    degradations: Sequence[Degradation]


class CandidateOutcome(enum.Enum):
    """What became of a candidate in the end."""

    RETURNED = "returned"
    BELOW_MIN_SCORE = "below_min_score"
    SKIPPED = "skipped"
    BEYOND_LIMIT = "beyond_limit"


class RerankOutcome(enum.Enum):
    """What the second stage did with a candidate."""

    SCORED = "scored"
    BEYOND_DEPTH = "beyond_depth"
    OUT_OF_TIME = "out_of_time"
    NOTHING_TO_READ = "nothing_to_read"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedCandidate:
    """A document that a stage found, and its way through the stages; ``id`` "" where it has gone meanwhile."""

    id: str
    rank: int
    score: float
    dense: StageScore | None
    lexical: StageScore | None
    fused: StageScore
    rerank: RerankScore | None
    outcome: CandidateOutcome
    rerank_outcome: RerankOutcome | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankedPassage:
    """What the reranker read of a passage: a text, query included, or so many of its stored token vectors."""

    id: str
    ordinal: int
    text: str
    token_vectors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedTexts:
    """What the models read: the query as the embedder did, "" where there was none, and the passages reranked."""

    query: str
    passages: Sequence[RerankedPassage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The settings a search ran with and the way of every candidate, in the order of the final ranking.

    Attributes:
        dense_passages, dense_sources: what the dense index was asked, and how; see ``DenseCandidates``.
        texts: None unless asked for.
    """

    candidates: Sequence[ExplainedCandidate]
    dense_candidates: int
    lexical_candidates: int
    fusion: FusionMethod
    dense_weight: float
    rrf_k: int
    rerank_depth: int
    rerank_weight: float
    dense_passages: int
    dense_sources: Sequence[DenseSource]
    texts: ExplainedTexts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits, best first, and how they came about; the explanation where it was asked for."""

    hits: Sequence[Hit]
    report: SearchReport
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock; ``math.inf`` for none."""

    at: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        """The deadline ``seconds`` from now."""
        return Deadline(time.monotonic() + seconds)

    def left_seconds(self) -> float:
        """Seconds left; negative when it has passed."""
        return self.at - time.monotonic()

    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left_seconds() <= 0
