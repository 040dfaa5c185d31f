"""Fuses two rankings into one, and blends a reranker's scores into the result.

A score is NaN if a stage did not score a document; a rank is 0 if a stage did not rank it. Pure functions over arrays;
any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ranks = NDArray[np.int64]


def min_max(scores: Floats) -> Floats:
    """Scores of shape (n,), mapped linearly onto 0..1; all 1 if they are all equal. NaN stays NaN."""
    known = scores[~np.isnan(scores)]
    if not known.size:
        return scores
    low, spread = known.min(), known.max() - known.min()
    if spread <= 0:
        return np.where(np.isnan(scores), np.nan, 1.0)
    return np.asarray((scores - low) / spread, dtype=np.float64)


def weighted_sum(stages: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The weighted sum of normalised scores. Each stage is a column of shape (n,); a missing score counts 0.

    Bruch, Gai and Ingber call it the convex combination: "An Analysis of Fusion Functions for Hybrid Retrieval" (2023).
    """
    return np.asarray(sum(weight * np.nan_to_num(stage) for weight, stage in zip(weights, stages, strict=True)))


def reciprocal_ranks(stages: Sequence[Ranks], k: int) -> Floats:
    """Reciprocal rank fusion, scaled to 1 for a document that is first in every stage. Each stage is a column of shape
    (n,).

    Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet" (2009).
    """
    best = len(stages) / (k + 1)
    return np.asarray(sum(np.where(ranks > 0, 1.0 / (k + ranks), 0.0) / best for ranks in stages))


def blend(fused: Floats, reranked: Floats, weight: float | Floats) -> tuple[Floats, Floats]:
    """Final scores of a shortlist.

    The rerank scores are mapped onto the range of the shortlist's fused scores before both are mixed. That gives the
    same order as mixing two min-max normalised scores, and no score falls below those of the documents that were not
    reranked.

    Args:
        fused: shape (n,), the shortlist's fused scores.
        reranked: shape (n,), raw rerank scores. A document with NaN, which was not scored, keeps its fused score.
        weight: weight of the rerank score, 0 to 1. An array of shape (w, 1) gives final scores for w weights at once.

    Returns:
        The final scores, of shape (n,) or (w, n), and the min-max normalised rerank scores, of shape (n,).
    """
    normalized = min_max(reranked)
    low, high = fused.min(), fused.max()
    mapped = np.where(np.isnan(normalized), fused, low + normalized * (high - low))
    return np.asarray((1 - weight) * fused + weight * mapped, dtype=np.float64), normalized


def blended_order(final: Floats, normalized: Floats) -> NDArray[np.int64]:
    """The order of a shortlist, best first, along the last axis.

    The rerank score breaks ties of final scores. Where it is missing too, the order of the fused ranking stays.
    """
    return np.lexsort((-np.nan_to_num(normalized, nan=-1.0), -final), axis=-1)
