"""The dense index of a generation: the segments, the growing segment, and the snapshot of both that searches take.

The writer thread makes all changes, each after the transaction it belongs to. Any thread may read ``snapshot`` and
enter ``watching``. The invariant: a live passage id is in the one segment whose range holds it, or else in the growing
segment.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shortlist_server.storage.values import PassageChange, Totals
from shortlist_server.storage.vectors.growing import GrowingSegment
from shortlist_server.storage.vectors.manifest import SegmentDamaged
from shortlist_server.storage.vectors.search import Snapshot
from shortlist_server.storage.vectors.segments import Segment


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A segment to build from the passages with ``low < passage_id <= high``, in place of ``replaced``.

    Attributes:
        seed: one of ``replaced``, whose graph is the start of the new one, or None.
    """

    low: int
    high: int
    replaced: tuple[Segment, ...] = ()
    seed: Segment | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """Passage ids removed since a build began; the build may have read them while they lived.

    Compared by identity, because the watches of two builds often hold the same passage ids.
    """

    removed: list[NDArray[np.int64]] = field(default_factory=list)


class DenseIndex:
    """The vectors of a generation as its searches see them."""

    def __init__(self, segments: Sequence[Segment], growing: GrowingSegment, totals: Totals) -> None:
        self._segments = tuple(segments)
        self._growing = growing
        self._totals = totals
        self._watches: list[Watch] = []
        self._lock = threading.Lock()
        self._show()

    @property
    def snapshot(self) -> Snapshot:
        """The state now. It stays as it is, except that rows die in it."""
        return self._snapshot

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Records removals while a build runs."""
        watch = Watch()
        with self._lock:
            self._watches.append(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._watches.remove(watch)

    def publish(self, change: PassageChange | None, totals: Totals) -> None:
        """Shows a committed change; None where it touched no passage of this generation. Writer thread only."""
        before, self._totals = self._totals, totals
        if change is not None and change.passage_ids:
            self._growing.append(change.passage_ids, change.keys, change.vectors)
        if change is not None and change.removed:
            # Show the new version before removing the old one: a search between the two finds the document twice
            # rather than not at all, and the old key resolves to nothing.
            self._totals = before
            self._show()
            self._totals = totals
            removed = np.sort(np.asarray(change.removed, dtype=np.int64))
            self._growing.remove(removed)
            for segment in self._segments:
                segment.remove(removed)
            self._notify_watches(removed)
        self._show()

    def admit(self, job: Job, segment: Segment | None, watch: Watch) -> None:
        """Marks rows of a new segment that died since the build read them, and compares it with what it replaces.

        Writer thread only.

        Raises:
            SegmentDamaged: its live passage ids differ from those it replaces; it must not be published.
        """
        growing = self._growing.snapshot()
        inside = growing.alive & (growing.passage_ids > job.low) & (growing.passage_ids <= job.high)
        expected = [growing.passage_ids[inside]]
        dead = list(watch.removed)
        for old in job.replaced:
            expected.append(old.passage_ids[old.alive])
            dead.append(old.passage_ids[~old.alive])
        if segment is not None and dead:
            segment.remove(np.unique(np.concatenate(dead)))
        live = np.empty(0, dtype=np.int64) if segment is None else np.sort(segment.passage_ids[segment.alive])
        if not np.array_equal(live, np.sort(np.concatenate(expected))):
            raise SegmentDamaged(
                f"the new segment of labels {job.low} to {job.high} holds other passages than the index shows;"
                " run a verification with repair"
            )

    def swap(self, job: Job, segment: Segment | None, watch: Watch) -> None:
        """Replaces old segments and growing rows by an admitted segment. Writer thread only."""
        if segment is not None and watch.removed:
            # Changes of the same transaction were shown after the admission; the rows they removed died since.
            segment.remove(np.unique(np.concatenate(watch.removed)))
        kept = [old for old in self._segments if old not in job.replaced]
        new = [] if segment is None else [segment]
        self._segments = tuple(sorted(kept + new, key=lambda one: one.row.low))
        self._growing.drop_range(job.low, job.high)
        self._show()

    def restore(self, kept: Collection[str], live: NDArray[np.int64], growing: GrowingSegment, totals: Totals) -> None:
        """Makes the index show what the database has, whatever it showed before. Writer thread only.

        Args:
            kept: uids of the segments that stay; they hold every live passage id of their ranges, and perhaps others.
            live: all live passage ids, ascending.
            growing: the passages outside those ranges.
        """
        old = self._growing.snapshot()
        before = [old.live_passage_ids(), *(segment.passage_ids[segment.alive] for segment in self._segments)]
        dead = np.setdiff1d(np.concatenate(before), live)
        self._totals = totals
        self._segments = tuple(one for one in self._segments if one.row.uid in kept)
        self._growing = growing
        for segment in self._segments:
            segment.remove(dead)
        self._notify_watches(dead)
        self._show()

    def _notify_watches(self, removed: NDArray[np.int64]) -> None:
        with self._lock:
            for watch in self._watches:
                watch.removed.append(removed)

    def _show(self) -> None:
        self._snapshot = Snapshot(
            sequence=self._totals.sequence,
            segments=self._segments,
            growing=self._growing.snapshot(),
            documents=self._totals.documents,
            passages=self._totals.passages,
        )
