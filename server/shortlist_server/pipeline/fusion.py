"""Fusing two rankings into one, and blending a reranker's scores into the result.

Pure functions over arrays; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import FusionMethod

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScores:
    """The documents one stage scored.

    Attributes:
        scores: document key to raw score.
        ranks: document key to rank from 1, for the documents in the stage's own ranking.
    """

    scores: dict[int, float]
    ranks: dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """The fused ranking, best first.

    Attributes:
        keys: the documents.
        scores: shape (n,), 0 to 1, descending.
        dense, lexical: normalised scores by key, for the documents each stage scored.
    """

    keys: list[int]
    scores: Floats
    dense: dict[int, float]
    lexical: dict[int, float]


def min_max(values: Floats) -> Floats:
    """Values mapped linearly onto 0..1; all 1 where they are all equal."""
    if values.size == 0:
        return values
    low, high = float(values.min()), float(values.max())
    if high - low <= 0:
        return np.ones_like(values)
    return np.asarray((values - low) / (high - low), dtype=np.float64)


def fuse(
    dense: StageScores | None, lexical: StageScores | None, method: FusionMethod, *, dense_weight: float, rrf_k: int
) -> Fused:
    """One ranking out of one or two. Ties keep the order dense rank, then lexical rank.

    The convex combination follows Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval" (2023);
    reciprocal rank fusion follows Cormack, Clarke and Büttcher (2009), scaled so that first in both gives 1.
    """
    stages = [stage for stage in (dense, lexical) if stage is not None]
    keys = list(dict.fromkeys(key for stage in stages for key in stage.scores))
    normalized = [dict(zip(stage.scores, min_max(_array(stage.scores)), strict=True)) for stage in stages]
    if method is FusionMethod.RRF:
        best = len(stages) / (rrf_k + 1)
        parts = [
            np.array([1 / (rrf_k + stage.ranks[key]) / best if key in stage.ranks else 0.0 for key in keys])
            for stage in stages
        ]
    else:
        weights = (dense_weight, 1 - dense_weight) if len(stages) == 2 else (1.0,)
        parts = [
            weight * np.array([scores.get(key, 0.0) for key in keys])
            for weight, scores in zip(weights, normalized, strict=True)
        ]
    total: Floats = np.asarray(np.sum(parts, axis=0)) if keys else np.empty(0)
    order = np.argsort(-total, kind="stable")
    by_stage = iter(normalized)
    return Fused(
        keys=[keys[i] for i in order],
        scores=np.asarray(total[order], dtype=np.float64),
        dense=next(by_stage) if dense is not None else {},
        lexical=next(by_stage) if lexical is not None else {},
    )


def blend(fused: Floats, reranked: Floats, weight: float) -> tuple[Floats, Floats]:
    """Final scores of a shortlist.

    The rerank scores are mapped onto the range of the shortlist's fused scores before they are mixed. That orders the
    shortlist as mixing two min-max normalised scores does, and keeps every score at or above those of the documents
    that were not reranked.

    Args:
        fused: shape (n,), the shortlist's fused scores.
        reranked: shape (n,), raw rerank scores; NaN where a document could not be scored, which leaves it
            its fused score.
        weight: of the rerank score, 0 to 1.

    Returns:
        The final scores and the min-max normalised rerank scores (NaN stays), both of shape (n,).
    """
    known = ~np.isnan(reranked)
    normalized: Floats = np.full(reranked.shape, np.nan)
    normalized[known] = min_max(reranked[known])
    low, high = float(fused.min()), float(fused.max())
    mapped = np.where(known, low + normalized * (high - low), fused)
    return np.asarray((1 - weight) * fused + weight * mapped, dtype=np.float64), normalized


def _array(scores: dict[int, float]) -> Floats:
    return np.fromiter(scores.values(), dtype=np.float64, count=len(scores))
