"""Values that the rooms of the store hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The one row that numbers everything."""

    sequence: int
    next_key: int
    next_label: int
    documents: int
    passages: int
    commits: int = 0
    ids_checksum: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Effect:
    """What a change did to the passages, for those who keep vectors in memory.

    Attributes:
        counters: the counters after it.
        removed_keys: documents that are gone, replaced ones included.
        removed_labels: shape (r,), int64: their passages.
        labels, keys: shape (n,), int64: the new passages, ascending.
        vectors: n arrays of shape (dimension,), float32.
    """

    counters: Counters
    removed_keys: list[int] = field(default_factory=list)
    removed_labels: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)


class SegmentOutdated(Exception):
    """What a new segment was to replace has changed since its build began. Never reaches a caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """A segment in the database: it holds the passages with ``low < label <= high`` that lived when it was built."""

    uid: str
    low: int
    high: int
    passages: int
    checksum: str
