"""The answers to calls about generations, as values.

A generation is the part of a collection that one model made: passages, vectors and segments. Frozen, safe to share
between threads. ``_generation_convert`` makes these values from the proto, whose names they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shortlist._admin_types import RankingQuality
from shortlist._collection_types import Chunking

GenerationState = Literal["building", "serving", "former", "dropping"]
"""The state of a generation.

- "building": a reindex builds it, or it is complete and waits for the switch.
- "serving": searches use it.
- "former": it served before the last switch. It receives every write and can serve again at once.
- "dropping": the server frees its space.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Passages and vectors of a collection, made by one model with one chunking and dimension.

    Attributes:
        number: identifies it in the collection; from 1, increasing, never reused.
        embedder, embedder_revision: its model, with the whole revision.
        dimension: size of its vectors.
        chunking: how it cuts documents into passages.
        query_instruction: put before queries; "" for the model's default.
        number_format: what the embedder computed in when the generation was made; "" where that is not known.
        create_time: when it was made, in UTC.
        serve_time: when it last began to serve, in UTC; None if it never did.
        passage_count: live passages.
        disk_bytes: its segments, and an estimate for its rows.
        complete: whether it has every document. Only a complete generation can begin to serve.
        operation: name of the operation that builds it; "" when none does.
        paused_reason: a sentence that says why its build is paused; "" when it is not.
        problem: a sentence that says why it cannot be used; "" when it can. Drop such a generation, and build it
            again.
    """

    number: int
    state: GenerationState
    embedder: str
    embedder_revision: str
    dimension: int
    chunking: Chunking
    query_instruction: str
    number_format: str
    create_time: datetime
    serve_time: datetime | None
    passage_count: int
    disk_bytes: int
    complete: bool
    operation: str = ""
    paused_reason: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexProgress:
    """The progress of a reindex.

    Attributes:
        done_documents: documents that the generation has.
        total_documents: live documents of the collection; changes with writes and deletions.
        done_tokens: tokens embedded so far.
        failed_documents: documents that the generation refused; each is a dead letter of the stream "reindex/NUMBER".
        documents_per_second, tokens_per_second: over the last minute.
        remaining_seconds: time left at this rate; None while it is not known.
        disk_bytes: size of the generation so far.
        paused_reason: a sentence that says why the reindex is paused; "" when it is not.
    """

    done_documents: int
    total_documents: int
    done_tokens: int
    failed_documents: int
    documents_per_second: float
    tokens_per_second: float
    remaining_seconds: float | None
    disk_bytes: int
    paused_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexEstimate:
    """What a reindex will need, estimated from a sample of the collection's documents.

    Attributes:
        document_count: documents to embed.
        passage_count: passages they will be cut into.
        token_count: tokens to embed.
        seconds: time it will take while nothing else runs.
        disk_bytes: size of the new generation.
        free_disk_bytes: free on the disk now, without what the server keeps back.
        memory_bytes: memory that searches of the new generation will need.
        free_memory_bytes: free memory of the server's machine now.
        sampled_documents: documents that were sampled.
    """

    document_count: int
    passage_count: int
    token_count: int
    seconds: float
    disk_bytes: int
    free_disk_bytes: int
    memory_bytes: int
    free_memory_bytes: int
    sampled_documents: int

    @property
    def fits_on_disk(self) -> bool:
        """Whether the disk has room. The server refuses a reindex that does not fit, unless it is forced."""
        return self.disk_bytes <= self.free_disk_bytes

    @property
    def fits_in_memory(self) -> bool:
        """Whether the machine has memory for both generations."""
        return self.memory_bytes <= self.free_memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSwitch:
    """What a switch or a roll-back did: the generation that serves now, and the one that served before."""

    serving: Generation
    former: Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class HitMoves:
    """Where the serving generation's first ten hits are among the candidate's first ten, over all queries.

    Attributes:
        same, higher, lower: at the same, a better or a worse rank.
        gone: no longer among the first ten.
    """

    same: int
    higher: int
    lower: int
    gone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingComparison:
    """The quality of one ranking of both generations, over the same judged queries.

    Attributes:
        ndcg_difference: mean difference of nDCG@10, candidate minus serving.
        p_value: how often chance alone would produce a difference as large; a two-sided paired randomisation test.
    """

    serving: RankingQuality
    candidate: RankingQuality
    ndcg_difference: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedQuery:
    """A query whose hits changed.

    Attributes:
        id: of a judged query; "" for a recent one.
        overlap: share of the first ten hits that both generations have, 0 to 1.
        serving_ids, candidate_ids: ids of the first ten hits of each, best first.
    """

    id: str
    text: str
    overlap: float
    serving_ids: tuple[str, ...]
    candidate_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationComparison:
    """What a comparison of two generations found.

    Attributes:
        serving, candidate: their numbers.
        query_count: queries that both answered.
        mean_overlap: mean share of the first ten hits that both have, 0 to 1.
        changed_first_hits: queries whose first hit differs.
        moves: where the candidate has the serving generation's hits.
        serving_median_seconds, serving_p95_seconds: time of a search on the serving generation.
        candidate_median_seconds, candidate_p95_seconds: the same of the candidate.
        rankings: by ranking, as in ``EvaluateReport``; empty without judged queries.
        examples: the queries that changed most, smallest overlap first; at most ten.
        degraded_searches: searches that ran degraded, on either generation.
    """

    serving: int
    candidate: int
    query_count: int
    mean_overlap: float
    changed_first_hits: int
    moves: HitMoves
    serving_median_seconds: float
    serving_p95_seconds: float
    candidate_median_seconds: float
    candidate_p95_seconds: float
    rankings: Mapping[str, RankingComparison]
    examples: tuple[ChangedQuery, ...]
    degraded_searches: int
