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
    """A document's score in the rerank stage. ``probability`` is None where the reranker has none."""

    score: float
    rank: int
    normalized: float
    probability: float | None
    truncated_tokens: int
