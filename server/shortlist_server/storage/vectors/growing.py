"""The growing segment: passages that no other segment holds yet, in one float32 matrix that searches scan.

``GrowingSegment`` belongs to the writer thread. Readers hold a ``GrowingSnapshot``, which shares the arrays. Rows that
the writer appends later lie beyond the snapshot's length. A row that dies is marked in place, which removes a deleted
passage at once from every snapshot that shares the arrays; older snapshots hold arrays from before the rows moved.
Passage ids ascend. So do keys, except in a generation that was built beside another: its build adds old documents
between new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Vector

_FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True, eq=False)
class GrowingSnapshot:
    """The growing segment at one moment.

    Attributes:
        vectors: shape (n, dimension), float32.
        passage_ids, keys: shape (n,), int64; the passage ids ascend.
        alive: shape (n,), bool; the writer changes it at any time, so copy it before using it as a mask.
        live: number of live rows when the snapshot was taken.
        keys_ascend: whether the keys ascend too.
    """

    vectors: NDArray[np.float32]
    passage_ids: NDArray[np.int64]
    keys: NDArray[np.int64]
    alive: NDArray[np.bool_]
    live: int
    keys_ascend: bool = True

    def live_passage_ids(self) -> NDArray[np.int64]:
        """Passage ids of the live rows, ascending."""
        # A copy: numpy counts a mask before it reads it, and the writer may change it between the two.
        return self.passage_ids[self.alive.copy()]

    def rows_of(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Live rows of these documents, shape (r,)."""
        # A scan costs less than keeping an order: rows with mixed keys are few, and soon in a segment.
        rows = rows_between(self.keys, keys) if self.keys_ascend else np.flatnonzero(np.isin(self.keys, keys))
        return rows[self.alive[rows]]


def rows_between(sorted_keys: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions in ``sorted_keys`` that hold one of ``keys``; a key may repeat in ``sorted_keys``."""
    first = np.searchsorted(sorted_keys, keys, "left")
    counts = np.searchsorted(sorted_keys, keys, "right") - first
    total = int(counts.sum())
    rows = np.repeat(first - np.concatenate(([0], np.cumsum(counts)[:-1])), counts) + np.arange(total)
    return rows.astype(np.int64, copy=False)


class GrowingSegment:
    """The growing arrays behind the snapshots. Writer thread only."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._allocate(_FIRST_CAPACITY)
        self._length = 0
        self._live = 0
        self._last_key = 0
        self._keys_ascend = True

    @property
    def live(self) -> int:
        """Number of live rows."""
        return self._live

    def append(self, passage_ids: Sequence[int], keys: Sequence[int], vectors: Sequence[Vector]) -> None:
        """Adds rows; their passage ids must be larger than all present ones."""
        if not passage_ids:
            return
        if self._length + len(passage_ids) > len(self._passage_ids):
            # Dead rows stay behind; otherwise a document that is replaced all the time would fill the memory.
            self._move(self._alive[: self._length], len(passage_ids))
        end = self._length + len(passage_ids)
        self._passage_ids[self._length : end] = passage_ids
        self._keys[self._length : end] = keys
        self._vectors[self._length : end] = vectors
        self._alive[self._length : end] = True
        self._length = end
        self._live += len(passage_ids)
        added = self._keys[end - len(passage_ids) : end]
        self._keys_ascend = self._keys_ascend and added[0] >= self._last_key and bool(np.all(added[1:] >= added[:-1]))
        self._last_key = int(added[-1])

    def remove(self, passage_ids: NDArray[np.int64]) -> None:
        """Marks rows dead, in every snapshot; skips passage ids that are not here."""
        present = self._passage_ids[: self._length]
        rows = np.searchsorted(present, passage_ids)
        inside = rows < self._length
        rows = rows[inside][present[rows[inside]] == passage_ids[inside]]
        rows = rows[self._alive[rows]]
        self._alive[rows] = False
        self._live -= len(rows)

    def drop_range(self, low: int, high: int) -> None:
        """Drops the rows with ``low < passage_id <= high``, which a published segment now holds, and all dead rows."""
        passage_ids = self._passage_ids[: self._length]
        self._move(self._alive[: self._length] & ((passage_ids <= low) | (passage_ids > high)), 0)

    def snapshot(self) -> GrowingSnapshot:
        """The growing segment now."""
        n = self._length
        return GrowingSnapshot(
            self._vectors[:n], self._passage_ids[:n], self._keys[:n], self._alive[:n], self._live, self._keys_ascend
        )

    def _allocate(self, capacity: int) -> None:
        self._vectors = np.empty((capacity, self._dimension), dtype=np.float32)
        self._passage_ids = np.empty(capacity, dtype=np.int64)
        self._keys = np.empty(capacity, dtype=np.int64)
        self._alive = np.zeros(capacity, dtype=np.bool_)

    def _move(self, keep: NDArray[np.bool_], room: int) -> None:
        """Copies the rows to keep into new arrays with room for more; snapshots keep the old arrays."""
        old: tuple[NDArray[Any], ...] = (self._vectors, self._passage_ids, self._keys)
        count = int(np.count_nonzero(keep))
        self._allocate(max(_FIRST_CAPACITY, 2 * (count + room)))
        now: tuple[NDArray[Any], ...] = (self._vectors, self._passage_ids, self._keys)
        for new, before in zip(now, old, strict=True):
            np.compress(keep, before[: len(keep)], axis=0, out=new[:count])
        self._alive[:count] = True
        kept = self._keys[:count]
        self._keys_ascend = self._keys_ascend or bool(np.all(kept[1:] >= kept[:-1]))
        self._last_key = int(kept[-1]) if count else 0
        self._length = self._live = count
