"""The upkeep of one collection's segments: who seals and merges, how a result is published, and what waits for it.

A new segment comes into being in one transaction of the writer thread, which first compares it with what it replaces.
Files of replaced segments go after that transaction is durable. Nothing is polled for: a commit asks for a look at once
when the tail is long enough, once a second while there are changes, and a last time when they have ceased for a while.
Any thread may call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

from shortlist_server.storage.clock import Alarm
from shortlist_server.storage.compaction.compactor import Caretaker, Tally, next_merge, next_seal
from shortlist_server.storage.compaction.recovery import Damage
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.vectors.index import DenseIndex, Job, Watch
from shortlist_server.storage.vectors.search import View
from shortlist_server.storage.vectors.segments import Segment

_IDLE_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_TAIL_LIMIT_SEGMENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStats:
    """A published segment: its live and its dead passages."""

    uid: str
    passages: int
    dead_passages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStats:
    """How a collection's maintenance is doing.

    Attributes:
        tail_passages: passages that are searched exactly because no segment has them yet.
        seals, merges, build_failures: since the server started, however often the collection was closed meanwhile.
        failing: whether the last build failed; searches are right but slower until one succeeds.
        waited_seconds: time commits were held back because the tail outgrew the builder.
        damaged_segments: those that were forgotten when the collection was opened, and why.
    """

    tail_passages: int
    segments: tuple[SegmentStats, ...]
    seals: int
    merges: int
    build_failures: int
    failing: bool
    last_build_error: str
    waited_seconds: float
    damaged_segments: tuple[str, ...]


@dataclass(slots=True)
class UpkeepTally:
    """What the maintenance of a collection has done; it outlives the collection's closing and opening."""

    sealing: Tally = field(default_factory=Tally)
    merging: Tally = field(default_factory=Tally)
    waited_seconds: float = 0.0


class Upkeep:
    """Sealing, merging and rebuilding of one collection's segments."""

    def __init__(
        self,
        name: str,
        folder: Path,
        uid: str,
        dimension: int,
        index: DenseIndex,
        submit: Callable[[Task[None]], Future[None]],
        parameters: Parameters,
        tally: UpkeepTally,
    ) -> None:
        self._segments_folder = folder / "segments"
        self._index = index
        self._submit = submit
        self._parameters = parameters
        self._tally = tally
        self._lock = threading.Lock()
        self._alarm: Alarm | None = None
        self._last_change = time.monotonic()
        self._closed = False

        def caretaker(kind: str, choose: Callable[[], Job | None], threads: Executor, tally: Tally) -> Caretaker:
            return Caretaker(
                f"{kind}-{name}",
                folder,
                uid,
                dimension,
                index=index,
                choose=choose,
                publish=self._publish,
                files=parameters.files,
                threads=threads,
                clock=parameters.clock,
                tally=tally,
                command=parameters.builder,
            )

        def choose_seal() -> Job | None:
            return next_seal(index.view, self._minimum, self._maximum)

        def choose_merge() -> Job | None:
            return next_merge(index.view, self._minimum, self._maximum, idle=self._idle())

        self._minimum = parameters.config.segment_min_passages
        self._maximum = parameters.config.segment_max_passages
        self._sealer = caretaker("seal", choose_seal, parameters.sealing_threads, tally.sealing)
        self._merger = caretaker("merge", choose_merge, parameters.merging_threads, tally.merging)

    def start(self) -> None:
        """Looks for what was left to do when the collection was closed, when it is to be maintained."""
        if self._worth_a_look():
            self._look()

    def close(self) -> None:
        """Ends builds; whoever waits for room goes on. Idempotent."""
        with self._lock:
            self._closed = True
            if self._alarm is not None:
                self._alarm.cancel()
        self._sealer.close()
        self._merger.close()

    @property
    def busy(self) -> bool:
        """Whether a segment is being built, or due. A build that failed and waits for its next try does not count."""
        return self._sealer.busy or self._merger.busy

    def changed(self) -> None:
        """A commit was shown."""
        self._last_change = time.monotonic()
        if not self._worth_a_look():
            return
        if self._index.view.tail.live >= self._minimum:
            self._sealer.wake()
        self._look_in(_LOOK_SECONDS)

    def has_room(self) -> bool:
        """Whether the tail may grow: not while it outgrows the builder, because every search scans the tail."""
        return (
            not self._parameters.maintain
            or self._closed
            or self._tally.sealing.failing
            or self._index.view.tail.live < _TAIL_LIMIT_SEGMENTS * self._minimum
        )

    def waited(self, seconds: float) -> None:
        """A commit waited so long for room."""
        self._tally.waited_seconds += seconds

    def _worth_a_look(self) -> bool:
        """Whether there can be anything to do: a small collection without segments costs nothing."""
        view = self._index.view
        return self._parameters.maintain and bool(view.segments or view.tail.live >= self._minimum)

    def _look(self) -> None:
        quiet_seconds = time.monotonic() - self._last_change
        with self._lock:
            self._alarm = None
        self._sealer.wake()
        self._merger.wake()
        if quiet_seconds < _LOOK_SECONDS:
            self._look_in(_LOOK_SECONDS)
        elif quiet_seconds < _IDLE_SECONDS:
            self._look_in(_IDLE_SECONDS - quiet_seconds)

    def _look_in(self, seconds: float) -> None:
        with self._lock:
            if self._alarm is None and not self._closed:
                self._alarm = self._parameters.clock.after(seconds, self._look)

    def seal_now(self) -> int:
        """Seals the whole tail on the caller's thread; returns the number of segments made.

        Raises:
            BuildFailed: a build failed; nothing of it has changed anything.
        """
        return self._sealer.work(lambda: next_seal(self._index.view, 1, self._maximum))

    def merge_now(self) -> int:
        """Merges as if the collection were idle, on the caller's thread; returns the number of segments made.

        Raises:
            BuildFailed: a build failed; what it was to replace is as it was.
        """
        return self._merger.work(lambda: next_merge(self._index.view, self._minimum, self._maximum, idle=True))

    def rebuild(self, segment: Segment) -> bool:
        """Builds a segment anew on the caller's thread; False when it was replaced meanwhile.

        Raises:
            BuildFailed: the build failed; the segment stays.
        """
        jobs = [Job(low=segment.row.low, high=segment.row.high, replaced=(segment,))]

        def choose() -> Job | None:
            return jobs.pop() if jobs and segment in self._index.view.segments else None

        return self._merger.work(choose) > 0

    def _idle(self) -> bool:
        return time.monotonic() - self._last_change >= _IDLE_SECONDS

    def _publish(self, job: Job, segment: Segment | None, watch: Watch) -> None:
        """Flips the manifest; runs on a caretaker's thread and waits for the writer's."""
        crash_point = self._parameters.crash_point

        def apply(transaction: WriteTransaction) -> None:
            self._index.admit(job, segment, watch)
            transaction.replace_segments(
                [old.row.uid for old in job.replaced], None if segment is None else segment.row
            )
            crash_point("publish:before")

        def publish(_: None) -> None:
            crash_point("publish:after")
            self._index.swap(job, segment, watch)

        self._submit(Task(apply, publish, makes_room=True)).result()
        for old in job.replaced:
            self._parameters.files.remove_tree(self._segments_folder / old.row.uid)
        crash_point("publish:removed")


def stats_of(tally: UpkeepTally, damage: Sequence[Damage], view: View | None) -> CollectionStats:
    """How a collection's maintenance is doing now. ``view`` None: it is closed."""
    sealing, merging = tally.sealing, tally.merging
    return CollectionStats(
        tail_passages=0 if view is None else view.tail.live,
        segments=tuple(
            SegmentStats(uid=one.row.uid, passages=one.live, dead_passages=len(one.labels) - one.live)
            for one in (() if view is None else view.segments)
        ),
        seals=sealing.built,
        merges=merging.built,
        build_failures=sealing.failures + merging.failures,
        failing=sealing.failing or merging.failing,
        last_build_error=sealing.last_error or merging.last_error,
        waited_seconds=tally.waited_seconds,
        damaged_segments=tuple(f"{one.uid}: {one.problem}" for one in damage),
    )
