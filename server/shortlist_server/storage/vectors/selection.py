"""The documents that pass a filter, resolved once and used by every stage of a search.

Any thread may use a selection. It is immutable except for two memos (rows and mask of each segment); a race
computes one of them twice at worst.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from shortlist_server.storage.vectors.growing import GrowingSnapshot
from shortlist_server.storage.vectors.segments import Segment

_KEPT_SELECTIONS = 64
# A key takes up to 25 bytes once all stages have used the selection.
_KEPT_KEYS = 4_000_000
_LOGGED_DELETIONS = 100_000


class KeySelection:
    """The keys of the documents that pass, at one sequence.

    Attributes:
        sequence: the collection's sequence at which they passed.
        keys: shape (n,), int64, ascending.
    """

    def __init__(self, sequence: int, keys: NDArray[np.int64]) -> None:
        self.sequence = sequence
        self.keys = keys
        self._segment_rows: dict[str, NDArray[np.int64]] = {}
        self._segment_masks: dict[str, NDArray[np.bool_]] = {}

    @property
    def matches(self) -> int:
        """Number of documents that pass."""
        return len(self.keys)

    @cached_property
    def _table(self) -> NDArray[np.bool_]:
        # One byte per key up to the largest: a lookup costs a nanosecond where a binary search costs fifty.
        table = np.zeros(int(self.keys[-1]) + 2 if len(self.keys) else 1, dtype=np.bool_)
        table[self.keys] = True
        return table

    @cached_property
    def as_json(self) -> str:
        """The keys as a JSON list, for ``json_each``."""
        return json.dumps(self.keys.tolist())

    def contains(self, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these keys pass, bool, in the shape of ``keys``."""
        table = self._table
        return table[np.minimum(keys, len(table) - 1)]

    def mask(self, source: Segment | GrowingSnapshot) -> NDArray[np.bool_]:
        """Which rows of a source belong to a document that passes, dead rows included; bool, shape (n,)."""
        if isinstance(source, GrowingSnapshot):
            return self.contains(source.keys)
        mask = self._segment_masks.get(source.row.uid)
        if mask is None:
            mask = self._segment_masks[source.row.uid] = self.contains(source.keys)
        return mask

    def rows(self, source: Segment | GrowingSnapshot) -> NDArray[np.int64]:
        """The same as row numbers, int64, shape (m,)."""
        if isinstance(source, GrowingSnapshot):
            return np.flatnonzero(self.contains(source.keys))
        rows = self._segment_rows.get(source.row.uid)
        if rows is None:
            rows = self._segment_rows[source.row.uid] = np.flatnonzero(self.mask(source))
        return rows


class SelectionCache:
    """Keeps resolved filters and brings them up to date instead of resolving them anew. Any thread may use it.

    A selection of an earlier sequence needs only what changed since: the cache tests documents with a later sequence,
    and drops the deleted ones by a log of deletions of bounded length.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selections: OrderedDict[str, KeySelection] = OrderedDict()
        self._deletions: deque[tuple[int, NDArray[np.int64]]] = deque()
        self._logged = 0
        self._known_after = 0

    def forget(self, sequence: int, keys: Sequence[int]) -> None:
        """Logs documents that are deleted as of a sequence; called before searches see that sequence."""
        with self._lock:
            self._deletions.append((sequence, np.asarray(keys, dtype=np.int64)))
            self._logged += len(keys)
            while self._logged > _LOGGED_DELETIONS:
                self._known_after, dropped = self._deletions.popleft()
                self._logged -= len(dropped)

    def resolve(self, name: str, sequence: int, read: Callable[[int], NDArray[np.int64]]) -> KeySelection:
        """The selection of a filter at ``sequence`` or a later one.

        Args:
            name: equal for equal filters only.
            sequence: the least sequence wanted; searches must see it already.
            read: given a sequence, returns the keys of documents changed after it that pass, ascending.
        """
        with self._lock:
            known = self._selections.get(name)
            if known is not None and known.sequence < self._known_after:
                known = None
            if known is not None:
                self._selections.move_to_end(name)
                if known.sequence >= sequence:
                    return known
            gone = [keys for at, keys in self._deletions if known is not None and known.sequence < at <= sequence]
        if known is None:
            fresh = KeySelection(sequence, read(0))
        else:
            kept = known.keys[~np.isin(known.keys, np.concatenate(gone))] if gone else known.keys
            fresh = KeySelection(sequence, np.union1d(kept, read(known.sequence)))
        with self._lock:
            self._selections[name] = fresh
            self._selections.move_to_end(name)
            held = sum(one.matches for one in self._selections.values())
            while len(self._selections) > 1 and (len(self._selections) > _KEPT_SELECTIONS or held > _KEPT_KEYS):
                held -= self._selections.popitem(last=False)[1].matches
        return fresh
