"""The answers of the indexes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class DenseStrategy(enum.Enum):
    """How the dense stage ran."""

    HNSW = "hnsw"
    HNSW_OVERFETCH = "hnsw_overfetch"
    EXACT = "exact"
    EXACT_FALLBACK = "exact_fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSource:
    """How one part of the dense index was searched.

    Attributes:
        name: the segment's id, or "growing".
        passages: those in it, deleted ones included.
        matches: those that pass the filter, as counted beforehand; None without a filter.
        ef: passages its graph was asked for; 0 where it was not asked.
        found: passages it gave.
    """

    name: str
    passages: int
    matches: int | None
    ef: int
    found: int
    strategy: DenseStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseCandidates:
    """Passages of the dense stage, best first.

    Attributes:
        passage_ids: shape (n,), int64.
        keys: shape (n,), int64: the document of each passage; a document may occur several times.
        scores: shape (n,), float32: cosine similarity, descending.
        strategy: how they were found.
        asked: passages that each source was asked for.
        sources: how each part of the index was searched in the last round; empty where the engine does not say.
    """

    passage_ids: NDArray[np.int64]
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
        bounded: whether the search left out frequent query terms to bound its cost.
    """

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    bounded: bool = False
