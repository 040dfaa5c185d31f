"""Values that the packages of the store pass to each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The row of counters, from which all numbers are assigned."""

    sequence: int
    next_key: int
    next_label: int
    documents: int
    passages: int
    commits: int = 0
    ids_checksum: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Effect:
    """What a change did to the passages; the dense index in memory follows it.

    Attributes:
        counters: the counters after the change.
        removed_keys: documents that were deleted or replaced.
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
    """The segments that a new one replaces have changed since its build began. Never reaches a caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRow:
    """A segment's row in the database. It has the passages with ``low < label <= high`` that were live at its build."""

    uid: str
    low: int
    high: int
    passages: int
    checksum: str
