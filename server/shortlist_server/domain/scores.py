"""The scores and ranks that a stage gives a document."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScore:
    """A document's score, rank from 1 (0: scored but not ranked) and min-max normalised score in one stage."""

    score: float
    rank: int
    normalized: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankScore:
    """A document's score in a rerank stage.

    Attributes:
        stage: the stage's place in the list of stages, from 1.
        score: the model's raw score.
        rank: by this score, among the documents that the stage scored, from 1.
        normalized: the score, min-max normalised over these documents.
        probability: None where the reranker has none.
        truncated_tokens: tokens that the model did not read.
        blended, blended_rank: the document's score and its rank in the whole ranking after the stage.
    """

    stage: int
    score: float
    rank: int
    normalized: float
    probability: float | None
    truncated_tokens: int
    blended: float
    blended_rank: int
