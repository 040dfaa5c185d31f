"""What a search answers, as values.

Frozen, safe to share between threads. Ranks count from 1. Scores of different stages are not comparable; ``normalized``
ones are, within one answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from shortlist._document_types import Document, Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScore:
    """A document in one stage.

    Attributes:
        score: cosine similarity (dense), BM25 (lexical), or 0 to 1 (fused); larger is better.
        rank: from 1; 0 when the document was scored but is not in the stage's ranking.
        normalized: the score min-max normalised over the stage's candidates, 0 to 1.
    """

    score: float
    rank: int
    normalized: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankScore:
    """A document in a rerank stage.

    Attributes:
        stage: the stage's place in the list of stages, from 1.
        score: the model's raw score.
        rank: by this score among the documents that the stage scored, from 1.
        normalized: the score min-max normalised over these documents, 0 to 1.
        probability: the score as a probability; None for rerankers without one.
        truncated_tokens: tokens of the document that the model did not see.
        blended, blended_rank: the document's score, 0 to 1, and its rank in the whole ranking after the stage.
    """

    stage: int
    score: float
    rank: int
    normalized: float
    probability: float | None
    truncated_tokens: int
    blended: float
    blended_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageHit:
    """A passage that matched.

    Attributes:
        dense_score: None in a search without a query vector.
        rerank_scores: raw scores by the number of the rerank stage, from 1; empty where no stage scored it.
    """

    passage: Passage
    dense_score: float | None
    rerank_scores: Mapping[int, float]

    @property
    def rerank_score(self) -> float | None:
        """The raw score in the last rerank stage that scored the passage; None where none did."""
        return self.rerank_scores[max(self.rerank_scores)] if self.rerank_scores else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A document found, with its account of every stage.

    Attributes:
        id: the document's id.
        rank: in the answer, from 1, offset included.
        score: the final score, 0 to 1: the fused score, or its combination with the rerank scores.
        dense, lexical: None when the stage did not run or has no score for the document.
        fused: both indexes as a whole.
        reranks: the rerank stages that scored the document, in their order; ``rerank`` is the last of them.
        document: the parts that were asked for.
        passages: those that matched, best first, when they were asked for.
        sequence: number of the commit that made this version of the document.
    """

    id: str
    rank: int
    score: float
    dense: StageScore | None
    lexical: StageScore | None
    fused: StageScore
    reranks: tuple[RerankScore, ...]
    document: Document
    passages: tuple[PassageHit, ...]
    sequence: int

    @property
    def rerank(self) -> RerankScore | None:
        """The last rerank stage that scored the document; None when none did."""
        return self.reranks[-1] if self.reranks else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """A way in which an answer is less than what was asked.

    Attributes:
        kind: "rerank_failed", "rerank_partial", "rerank_skipped", "lexical_bounded", "embedder_missing" or
            "generation_incomplete"; newer servers may have more.
        message: one sentence for a person.
        stage: the rerank stage that it is about, from 1; 0 where it is not about one alone.
    """

    kind: str
    message: str
    stage: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A model, by the name it is served under and what it computes; as text "name@revision".

    Attributes:
        name: as in ``CollectionConfig.embedder`` or ``CollectionConfig.reranker``.
        revision: as in ``ServerInfo``; models of equal revisions give equal answers, up to their number formats.
    """

    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankStageReport:
    """What a rerank stage did in one search.

    Attributes:
        stage: its place in the list of stages, from 1. A stage that cannot run for lack of an embedder has no report.
        model: the reranker.
        depth: how many documents it was to rerank, at most.
        weight: share of its score in the score after it, 0 to 1.
        reranked: documents it scored.
        tokens: tokens it read; 0 for late interaction.
        fetch_seconds, rerank_seconds: the times of reading its shortlist and of scoring it, that in the queue included.
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
    """An account of one search.

    Attributes:
        total_seconds: from the request's arrival at the server to the answer's being ready.
        stage_seconds: times of the stages that ran, of embed, filter, dense, lexical, fuse, fetch, rerank, group.
            Stages run side by side where they can, so the sum may exceed the total. The times of all rerank stages are
            summed.
        mode: the retrieval mode that was used.
        dense_strategy: "hnsw", "hnsw_overfetch", "exact" or "exact_fallback"; "" when the stage did not run.
        dense_candidates, lexical_candidates, fused_candidates: documents of each stage.
        rerank_stages: each rerank stage, in order; empty when the search reranked nothing.
        filter_matches: documents that pass the filter; None without one.
        query_tokens, query_truncated_tokens: tokens of the query that the embedder saw, and that were cut off.
        sequence: the answer is at least as new as this commit.
        embedder: the model that embedded the query, with its whole revision; None when none did.
        degradations: what was lost; empty for a full answer.
        generation: number of the generation that was searched; 0 from older servers, which do not report it.
    """

    total_seconds: float
    stage_seconds: Mapping[str, float]
    mode: str
    dense_strategy: str
    dense_candidates: int
    lexical_candidates: int
    fused_candidates: int
    rerank_stages: tuple[RerankStageReport, ...]
    filter_matches: int | None
    query_tokens: int
    query_truncated_tokens: int
    sequence: int
    embedder: ModelVersion | None
    degradations: tuple[Degradation, ...]
    generation: int = 0

    @property
    def degraded(self) -> bool:
        """Whether the answer is less than what was asked; ``degradations`` says how."""
        return bool(self.degradations)

    @property
    def reranker(self) -> ModelVersion | None:
        """The reranker of the last stage, with its whole revision; None when the search reranked nothing."""
        return self.rerank_stages[-1].model if self.rerank_stages else None

    @property
    def reranked(self) -> int:
        """Documents that the last rerank stage scored."""
        return self.rerank_stages[-1].reranked if self.rerank_stages else 0

    @property
    def rerank_tokens(self) -> int:
        """Tokens that the rerankers of all stages read."""
        return sum(stage.tokens for stage in self.rerank_stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedCandidate:
    """A document that a stage found, and its way through the stages.

    Attributes:
        id: the document's id; "" when it was deleted or replaced while the search ran.
        rank: in the final ranking, from 1, before ``min_score``, offset and limit.
        score: the final score, 0 to 1.
        dense, lexical, fused, reranks: as in ``Hit``.
        outcome: "returned", "below_min_score", "skipped" (before the offset) or "beyond_limit".
        rerank_outcomes: "scored", "beyond_depth", "out_of_time", "nothing_to_read" or "failed", for each of
            ``SearchReport.rerank_stages``.
    """

    id: str
    rank: int
    score: float
    dense: StageScore | None
    lexical: StageScore | None
    fused: StageScore
    reranks: tuple[RerankScore, ...]
    outcome: str
    rerank_outcomes: tuple[str, ...]

    @property
    def rerank(self) -> RerankScore | None:
        """The last rerank stage that scored the document; None when none did."""
        return self.reranks[-1] if self.reranks else None

    @property
    def rerank_outcome(self) -> str:
        """What the last rerank stage did with it; "" when the search reranked nothing."""
        return self.rerank_outcomes[-1] if self.rerank_outcomes else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSource:
    """How one part of the dense index was asked.

    Attributes:
        name: the segment's id, or "growing" for the passages in no segment yet.
        passages: those in it, deleted ones included.
        matches: those that pass the filter, as counted beforehand, which chooses the strategy; None without a filter.
        ef: passages that its graph was asked for; 0 when it was not asked.
        found: passages it gave.
        strategy: as ``SearchReport.dense_strategy``.
    """

    name: str
    passages: int
    matches: int | None
    ef: int
    found: int
    strategy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankedPassage:
    """What a reranker read of a passage.

    Attributes:
        stage: the rerank stage, from 1.
        id: the document's id; "" when it was deleted or replaced while the search ran.
        ordinal: the passage's place in the document, from 0.
        text: the whole of what the model read, query and special tokens included; "" for late interaction.
        token_vectors: stored token vectors that late interaction compared with the query's; 0 for other rerankers.
    """

    stage: int
    id: str
    ordinal: int
    text: str
    token_vectors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedTexts:
    """What the models read.

    Attributes:
        query: the query as the embedder read it, prompt and special tokens included; "" when none was embedded.
        passages: those that each rerank stage scored, in the order of its shortlist.
    """

    query: str
    passages: tuple[RerankedPassage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The settings a search ran with, and the way of every candidate.

    ``SearchReport.rerank_stages`` has the settings of reranking.

    Attributes:
        candidates: all documents that the dense or the lexical stage found, in the order of the final ranking.
        dense_candidates, lexical_candidates: documents that the indexes were asked for.
        dense_passages: passages that each part of the dense index was asked for, to cover so many documents.
        dense_sources: how each part of the dense index was asked.
        fusion_method: "weighted_sum" or "rrf".
        dense_weight: of the dense score in the weighted sum.
        rrf_k: constant of the other.
        texts: None unless asked for.
    """

    candidates: tuple[ExplainedCandidate, ...]
    dense_candidates: int
    dense_passages: int
    dense_sources: tuple[DenseSource, ...]
    lexical_candidates: int
    fusion_method: str
    dense_weight: float
    rrf_k: int
    texts: ExplainedTexts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Hits, best first, and how they came about; iterating gives the hits. ``explanation`` where it was asked for."""

    hits: tuple[Hit, ...]
    report: SearchReport
    explanation: Explanation | None = None

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        return self.hits[index]
