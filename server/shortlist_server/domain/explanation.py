"""The explanation of a search."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from shortlist_server.domain.collections import FusionMethod
from shortlist_server.domain.retrieval import DenseSource
from shortlist_server.domain.scores import RerankScore, StageScore


class CandidateOutcome(enum.Enum):
    """What became of a candidate."""

    RETURNED = "returned"
    BELOW_MIN_SCORE = "below_min_score"
    SKIPPED = "skipped"
    BEYOND_LIMIT = "beyond_limit"


class RerankOutcome(enum.Enum):
    """What a rerank stage did with a candidate."""

    SCORED = "scored"
    BEYOND_DEPTH = "beyond_depth"
    OUT_OF_TIME = "out_of_time"
    NOTHING_TO_READ = "nothing_to_read"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedCandidate:
    """A document that a stage found, and its way through the stages. ``id`` is "" where it was deleted meanwhile.

    ``reranks`` has the rerank stages that scored it, ``rerank_outcomes`` has one for each stage.
    """

    id: str
    rank: int
    score: float
    dense: StageScore | None
    lexical: StageScore | None
    fused: StageScore
    reranks: Sequence[RerankScore]
    outcome: CandidateOutcome
    rerank_outcomes: Sequence[RerankOutcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankedPassage:
    """What a rerank stage read of a passage: a text that includes the query, or a number of stored token vectors."""

    stage: int
    id: str
    ordinal: int
    text: str
    token_vectors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedTexts:
    """What the models read: the embedder's query text ("" without an embedder) and the reranked passages."""

    query: str
    passages: Sequence[RerankedPassage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The settings a search ran with and the way of every candidate, in the order of the final ranking.

    ``SearchReport.rerank_stages`` has the settings of reranking.

    Attributes:
        dense_passages, dense_sources: how the dense index was searched: ``asked`` and ``sources`` of its answer.
        texts: None unless asked for.
    """

    candidates: Sequence[ExplainedCandidate]
    dense_candidates: int
    lexical_candidates: int
    fusion: FusionMethod
    dense_weight: float
    rrf_k: int
    dense_passages: int
    dense_sources: Sequence[DenseSource]
    texts: ExplainedTexts | None
