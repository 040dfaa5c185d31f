"""Schedules the compaction of one generation: when to flush and merge, how to publish a result, which commits wait.

One transaction of the writer thread publishes a new segment, after a comparison with what it replaces. The files of
replaced segments are removed once that transaction is durable. Nothing polls: a commit wakes the flush at once when the
growing segment is long enough, and asks for a look a second later; the last look comes when the collection has been
idle for 10 s. Any thread may call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from shortlist_server.storage.clock import Alarm
from shortlist_server.storage.compaction.compactor import BuildTally, Compactor
from shortlist_server.storage.compaction.planner import next_flush, next_merge
from shortlist_server.storage.compaction.recovery import Damage, Place
from shortlist_server.storage.layout import SEGMENTS_FOLDER
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.reports import CollectionStats, SegmentStats
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.vectors.index import DenseIndex, Job, Watch
from shortlist_server.storage.vectors.search import Snapshot
from shortlist_server.storage.vectors.segments import Segment

_IDLE_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_GROWING_LIMIT_SEGMENTS = 16


@dataclass(slots=True)
class CompactionTally:
    """Counts of a generation's compaction; kept while the collection is closed."""

    flushing: BuildTally = field(default_factory=BuildTally)
    merging: BuildTally = field(default_factory=BuildTally)
    waited_seconds: float = 0.0

    def forgive(self) -> None:
        """Forgets failures of the last builds: there will be no others."""
        for build in (self.flushing, self.merging):
            build.failing, build.last_error = False, ""


class CompactionScheduler:
    """Flushes, merges and rebuilds of one generation."""

    def __init__(
        self,
        place: Place,
        index: DenseIndex,
        submit: Callable[[Task[None]], Future[None]],
        parameters: Parameters,
        tally: CompactionTally,
    ) -> None:
        self._segments_folder = place.folder / SEGMENTS_FOLDER
        self._generation = place.generation
        self._index = index
        self._submit = submit
        self._parameters = parameters
        self._tally = tally
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None
        self._last_change = time.monotonic()
        self._closed = False

        def compactor(kind: str, choose: Callable[[], Job | None], threads: Executor, tally: BuildTally) -> Compactor:
            return Compactor(
                f"{kind}-{place.name}" + (f"-{place.generation}" if place.generation > 1 else ""),
                place,
                index=index,
                choose=choose,
                publish=self._publish,
                files=parameters.files,
                threads=threads,
                clock=parameters.clock,
                tally=tally,
                command=parameters.builder,
            )

        def choose_flush() -> Job | None:
            return next_flush(index.snapshot, self._minimum, self._maximum)

        def choose_merge() -> Job | None:
            return next_merge(index.snapshot, self._minimum, self._maximum, idle=self._idle())

        self._minimum = parameters.config.segment_min_passages
        self._maximum = parameters.config.segment_max_passages
        self._flusher = compactor("flush", choose_flush, parameters.flushing_threads, tally.flushing)
        self._merger = compactor("merge", choose_merge, parameters.merging_threads, tally.merging)

    def start(self) -> None:
        """Resumes what was left to do when the collection was closed."""
        if self._worth_a_look():
            self._look()

    def stop(self) -> None:
        """Ends builds and lets commits go on that wait for room. Never blocks; ``close`` waits for the end."""
        with self._lock:
            self._closed = True
            if self._alarm is not None:
                self._alarm.cancel()
        self._flusher.stop()
        self._merger.stop()

    def close(self) -> None:
        """Ends builds and lets commits go on that wait for room. Idempotent."""
        self.stop()
        self._flusher.close()
        self._merger.close()

    @property
    def busy(self) -> bool:
        """Whether a build runs or is queued; waiting to try a failed build again does not count."""
        return self._flusher.busy or self._merger.busy

    def changed(self) -> None:
        """Notes that searches see a new commit."""
        self._last_change = time.monotonic()
        if not self._worth_a_look():
            return
        if self._index.snapshot.growing.live >= self._minimum:
            self._flusher.wake()
        self._look_in(_LOOK_SECONDS)

    def has_room(self) -> bool:
        """Whether the growing segment may grow. Every search scans it, so it must not outgrow the builder."""
        return (
            not self._parameters.maintain
            or self._closed
            or self._tally.flushing.failing
            or self._index.snapshot.growing.live < _GROWING_LIMIT_SEGMENTS * self._minimum
        )

    def waited(self, seconds: float) -> None:
        """Adds the time that a commit waited for room."""
        self._tally.waited_seconds += seconds

    def _worth_a_look(self) -> bool:
        """Whether there can be anything to do. A small collection without segments costs nothing."""
        snapshot = self._index.snapshot
        return self._parameters.maintain and bool(snapshot.segments or snapshot.growing.live >= self._minimum)

    def _look(self) -> None:
        quiet_seconds = time.monotonic() - self._last_change
        with self._lock:
            self._alarm = None
        self._flusher.wake()
        self._merger.wake()
        if quiet_seconds < _LOOK_SECONDS:
            self._look_in(_LOOK_SECONDS)
        elif quiet_seconds < _IDLE_SECONDS:
            self._look_in(_IDLE_SECONDS - quiet_seconds)

    def _look_in(self, seconds: float) -> None:
        with self._lock:
            if self._alarm is None and not self._closed:
                self._alarm = self._parameters.clock.after(seconds, self._look)

    def flush_now(self) -> int:
        """Flushes the whole growing segment on the caller's thread; returns the number of segments made.

        Raises:
            BuildFailed: a build failed; the collection is as it was before that build.
        """
        return self._flusher.work(lambda: next_flush(self._index.snapshot, 1, self._maximum))

    def merge_now(self) -> int:
        """Merges as if the collection were idle, on the caller's thread; returns the number of segments made.

        Raises:
            BuildFailed: a build failed; the segments it was to replace stay.
        """
        return self._merger.work(lambda: next_merge(self._index.snapshot, self._minimum, self._maximum, idle=True))

    def rebuild(self, segment: Segment) -> bool:
        """Rebuilds a segment on the caller's thread; False when another has replaced it meanwhile.

        Raises:
            BuildFailed: the build failed; the segment stays.
        """
        jobs = [Job(low=segment.row.low, high=segment.row.high, replaced=(segment,))]

        def choose() -> Job | None:
            return jobs.pop() if jobs and segment in self._index.snapshot.segments else None

        return self._merger.work(choose) > 0

    def _idle(self) -> bool:
        return time.monotonic() - self._last_change >= _IDLE_SECONDS

    def _publish(self, job: Job, segment: Segment | None, watch: Watch) -> None:
        """Replaces the segments in database and index; runs on a compactor's thread and waits for the writer's."""
        crash_point = self._parameters.crash_point

        def apply(transaction: WriteTransaction) -> None:
            self._index.admit(job, segment, watch)
            transaction.replace_segments(
                [old.row.uid for old in job.replaced], None if segment is None else segment.row, self._generation
            )
            crash_point("publish:before")

        def publish(_: None) -> None:
            crash_point("publish:after")
            self._index.swap(job, segment, watch)

        self._submit(Task(apply, publish, makes_room=True)).result()
        for old in job.replaced:
            self._parameters.files.remove_tree(self._segments_folder / old.row.uid)
        crash_point("publish:removed")


def stats_of(
    tallies: Collection[CompactionTally], damage: Sequence[Damage], snapshot: Snapshot | None
) -> CollectionStats:
    """The state of a collection's compaction now.

    Args:
        tallies: of all its generations.
        snapshot: of the generation that serves; None when the collection is closed.
    """
    builds = [build for tally in tallies for build in (tally.flushing, tally.merging)]
    return CollectionStats(
        growing_passages=0 if snapshot is None else snapshot.growing.live,
        segments=tuple(
            SegmentStats(uid=one.row.uid, passages=one.live, dead_passages=len(one.passage_ids) - one.live)
            for one in (() if snapshot is None else snapshot.segments)
        ),
        flushes=sum(tally.flushing.built for tally in tallies),
        merges=sum(tally.merging.built for tally in tallies),
        build_failures=sum(build.failures for build in builds),
        failing=any(build.failing for build in builds),
        last_build_error=next((build.last_error for build in builds if build.last_error), ""),
        waited_seconds=sum(tally.waited_seconds for tally in tallies),
        damaged_segments=tuple(f"{one.uid}: {one.problem}" for one in damage),
    )
