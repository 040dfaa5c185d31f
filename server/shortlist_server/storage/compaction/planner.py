"""Decides what to build next: which passages to flush, which segments to merge. Pure functions of a snapshot.

Any thread may call.
"""

from __future__ import annotations

from collections.abc import Sequence

from shortlist_server.storage.vectors.index import Job
from shortlist_server.storage.vectors.search import Snapshot
from shortlist_server.storage.vectors.segments import Segment

FANOUT = 4
"""Number of neighbouring segments of about one size that makes a merge due."""

REBUILD_SHARE = 0.25
"""Share of dead rows above which a segment is rebuilt."""

_SEED_DEAD_SHARE = 0.05


def next_flush(snapshot: Snapshot, minimum: int, maximum: int) -> Job | None:
    """The next part of the growing segment to write out, or None.

    Passages below or between segments come first, however few they are. The passages above all segments follow once
    there are ``minimum`` of them. A job has at most ``maximum`` passages and leaves the rest to the next.
    """
    passage_ids = snapshot.growing.live_passage_ids()
    if not len(passage_ids):
        return None
    low = 0
    for segment in snapshot.segments:
        inside = passage_ids[(passage_ids > low) & (passage_ids <= segment.row.low)]
        if len(inside):
            return Job(low=low, high=segment.row.low if len(inside) <= maximum else int(inside[maximum - 1]))
        low = segment.row.high
    rest = passage_ids[passage_ids > low]
    if len(rest) < minimum:
        return None
    return Job(low=low, high=int(rest[:maximum][-1]))


def next_merge(snapshot: Snapshot, minimum: int, maximum: int, *, idle: bool) -> Job | None:
    """The next segments to build anew as one, or None.

    A segment whose graph is crowded with equal vectors, or that has many dead rows, comes first, alone. The longest run
    of at least ``FANOUT`` neighbours of about one size comes next; when ``idle``, any two neighbours are enough. A
    merged run has at most ``maximum`` passages.
    """
    segments = snapshot.segments
    for segment in segments:
        if segment.crowded or len(segment.passage_ids) - segment.live > REBUILD_SHARE * len(segment.passage_ids):
            return _job((segment,), seeded=False)
    best: tuple[Segment, ...] = ()
    for start in range(len(segments)):
        run: list[Segment] = []
        live = 0
        for segment in segments[start:]:
            gap = run and _has_rows(snapshot, run[-1].row.high, segment.row.low)
            if gap or live + segment.live > maximum:
                break
            run.append(segment)
            live += segment.live
        if not idle:
            run = _same_tier(run, minimum)
        if len(run) >= (2 if idle else FANOUT) and len(run) > len(best):
            best = tuple(run)
    return _job(best, seeded=True) if best else None


def _same_tier(run: Sequence[Segment], minimum: int) -> list[Segment]:
    alike: list[Segment] = []
    for segment in run:
        if alike and _tier(segment, minimum) > _tier(alike[0], minimum):
            break
        alike.append(segment)
    return alike


def _tier(segment: Segment, minimum: int) -> int:
    tier, size = 0, minimum * FANOUT
    while segment.live >= size:
        tier, size = tier + 1, size * FANOUT
    return tier


def _has_rows(snapshot: Snapshot, low: int, high: int) -> bool:
    passage_ids = snapshot.growing.live_passage_ids()
    return bool(((passage_ids > low) & (passage_ids <= high)).any())


def _job(segments: tuple[Segment, ...], *, seeded: bool) -> Job:
    largest = max(segments, key=lambda segment: segment.live)
    clean = len(largest.passage_ids) - largest.live <= _SEED_DEAD_SHARE * len(largest.passage_ids)
    seed = largest if seeded and clean and len(segments) > 1 else None
    return Job(low=segments[0].row.low, high=segments[-1].row.high, replaced=segments, seed=seed)
