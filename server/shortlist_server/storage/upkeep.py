"""The upkeep of one collection's segments: who seals and merges, how a result is published, and what waits for it.

A new segment comes into being in one transaction of the writer thread, which first compares it with what it replaces.
Files of replaced segments go after that transaction is durable. ``wait_for_room`` belongs to the writer thread; any
thread may call the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.storage.index import DenseIndex, Job, Watch
from shortlist_server.storage.maintenance import Caretaker, next_merge, next_seal
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.recovery import Damage
from shortlist_server.storage.segments import Segment
from shortlist_server.storage.truth import Truth
from shortlist_server.storage.writer import Task

_IDLE_SECONDS = 10.0
_TAIL_LIMIT_SEGMENTS = 16
_TAIL_WAIT_SECONDS = 1.0


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
        seals, merges, build_failures: since the collection was opened.
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
    ) -> None:
        self._segments_folder = folder / "segments"
        self._index = index
        self._submit = submit
        self._parameters = parameters
        self._room = threading.Condition()
        self._waited_seconds = 0.0
        self._last_change = time.monotonic()
        self._closed = False

        def caretaker(kind: str, choose: Callable[[], Job | None]) -> Caretaker:
            return Caretaker(
                f"{kind}-{name}",
                folder,
                uid,
                dimension,
                index=index,
                choose=choose,
                publish=self._publish,
                files=parameters.files,
                command=parameters.builder,
            )

        minimum, self._maximum = parameters.config.segment_min_passages, parameters.config.segment_max_passages
        self._minimum = minimum
        self._sealer = caretaker("seal", lambda: next_seal(index.view, minimum, self._maximum))
        self._merger = caretaker("merge", lambda: next_merge(index.view, minimum, self._maximum, idle=self._idle()))

    def start(self) -> None:
        """Starts the background threads, when the collection is to be maintained."""
        if self._parameters.maintain:
            self._sealer.start()
            self._merger.start()

    def close(self) -> None:
        """Ends builds and threads; whoever waits for room goes on. Idempotent."""
        self._closed = True
        with self._room:
            self._room.notify_all()
        self._sealer.close()
        self._merger.close()

    def changed(self) -> None:
        """A commit was shown."""
        self._last_change = time.monotonic()
        if self._index.view.tail.live >= self._minimum:
            self._sealer.wake()

    def wait_for_room(self) -> None:
        """Slows growth while the tail outgrows the builder, because every search scans the tail. Writer thread only."""
        start = time.monotonic()
        until = start + _TAIL_WAIT_SECONDS
        with self._room:
            while (
                self._parameters.maintain
                and self._index.view.tail.live >= _TAIL_LIMIT_SEGMENTS * self._minimum
                and not self._closed
                and not self._sealer.failing
                and (left := until - time.monotonic()) > 0
            ):
                self._room.wait(left)
        self._waited_seconds += time.monotonic() - start

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

    def stats(self, damage: Sequence[Damage]) -> CollectionStats:
        """How it is doing now."""
        view = self._index.view
        return CollectionStats(
            tail_passages=view.tail.live,
            segments=tuple(
                SegmentStats(uid=one.row.uid, passages=one.live, dead_passages=len(one.labels) - one.live)
                for one in view.segments
            ),
            seals=self._sealer.built,
            merges=self._merger.built,
            build_failures=self._sealer.failures + self._merger.failures,
            failing=self._sealer.failing or self._merger.failing,
            last_build_error=self._sealer.last_error or self._merger.last_error,
            waited_seconds=self._waited_seconds,
            damaged_segments=tuple(f"{one.uid}: {one.problem}" for one in damage),
        )

    def _idle(self) -> bool:
        return time.monotonic() - self._last_change > _IDLE_SECONDS

    def _publish(self, job: Job, segment: Segment | None, watch: Watch) -> None:
        """Flips the manifest; runs on a caretaker's thread and waits for the writer's."""
        crash_point = self._parameters.crash_point

        def apply(truth: Truth) -> None:
            self._index.admit(job, segment, watch)
            truth.replace_segments([old.row.uid for old in job.replaced], None if segment is None else segment.row)
            crash_point("publish:before")

        def publish(_: None) -> None:
            crash_point("publish:after")
            self._index.swap(job, segment, watch)
            with self._room:
                self._room.notify_all()

        self._submit(Task(apply, publish)).result()
        for old in job.replaced:
            self._parameters.files.remove_tree(self._segments_folder / old.row.uid)
        crash_point("publish:removed")
