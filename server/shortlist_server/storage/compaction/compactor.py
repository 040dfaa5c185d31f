"""Keeps a generation's segments in shape: builds what the planner chooses, publishes it, and tries again what failed.

All collections share two pools of threads, one for flushes and one for merges, which take minutes. An idle collection
holds no thread. Each build runs in a child process started afresh (never forked from a serving process). The thread
waits for it, loads the result and hands it to the writer thread, which publishes it. A build that fails leaves
everything as it was; it is logged, counted and tried again after a growing delay.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import shortlist_server
from shortlist_server import memory
from shortlist_server.errors import ShortlistError
from shortlist_server.storage.clock import Alarm, Clock
from shortlist_server.storage.compaction.builder import TEMPORARY_PREFIX, BuildSpec
from shortlist_server.storage.compaction.recovery import Place
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.layout import DATABASE_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.values import GenerationDropped, SegmentOutdated, SegmentRow
from shortlist_server.storage.vectors.index import DenseIndex, Job, Watch
from shortlist_server.storage.vectors.manifest import SegmentDamaged
from shortlist_server.storage.vectors.segments import Segment

logger = logging.getLogger(__name__)

BUILDER = (sys.executable, "-P", "-m", "shortlist_server.storage.compaction.builder")
"""The command of the child process."""

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0


class BuildFailed(Exception):
    """A build gave no usable segment; the message has the last line of the child process, or the reason."""


_EXPECTED = (BuildFailed, ShortlistError, OSError)


@dataclass(slots=True)
class BuildTally:
    """Counts of a compactor's builds; kept while the collection is closed.

    Attributes:
        built, failures: builds that succeeded, and that failed.
        failing: whether the last build failed.
        last_error: the message of the last failed build.
    """

    built: int = 0
    failures: int = 0
    failing: bool = False
    last_error: str = ""


class Compactor:
    """One kind of compaction, flush or merge, of one generation: asks ``choose`` for a job, builds it, publishes it.

    All collections share ``threads``: after each job the others have their turn. Nothing runs until ``wake`` is called.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        *,
        index: DenseIndex,
        choose: Callable[[], Job | None],
        publish: Callable[[Job, Segment | None, Watch], None],
        files: Files,
        threads: Executor,
        clock: Clock,
        tally: BuildTally,
        command: Sequence[str] = BUILDER,
    ) -> None:
        self._name = name
        self._place = place
        self._folder = place.folder
        self._index = index
        self._choose = choose
        self._publish = publish
        self._files = files
        self._threads = threads
        self._clock = clock
        self.tally = tally
        self._command = tuple(command)
        self._working = threading.Lock()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._has_turn = False
        self._woken = False
        self._given_back = tally.built
        self._retry_seconds = _FIRST_RETRY_SECONDS
        self._retry: Alarm | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a job runs or is queued; waiting to try a failed build again does not count."""
        return self._has_turn

    def wake(self) -> None:
        """Asks for a look at what is due. Never blocks; after a failure the look waits for the next try."""
        with self._lock:
            self._woken = True
            self._ask_for_turn()

    def stop(self) -> None:
        """Ends a running build and starts no other. Never blocks; ``close`` waits for the end. Idempotent."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()
            if self._retry is not None:
                self._retry.cancel()

    def close(self) -> None:
        """Ends a running build and starts no other. Idempotent."""
        self.stop()
        with self._working:
            pass

    def work(self, choose: Callable[[], Job | None]) -> int:
        """Does jobs on the caller's thread until none is left; returns how many.

        Raises:
            BuildFailed: a build failed; the collection is as it was before that build.
        """
        done = 0
        with self._working:
            while (job := choose()) is not None:
                done += self._do(job)
        return done

    def _ask_for_turn(self) -> None:
        if self._woken and not (self._closed or self._has_turn or self._retry is not None):
            self._has_turn, self._woken = True, False
            self._threads.submit(self._turn)

    def _turn(self) -> None:
        """Does one job, if there is one."""
        job, retry = None, 0.0
        try:
            with self._working:
                job = None if self._closed else self._choose()
                if job is not None:
                    self._do(job)
        except Exception as error:
            retry = self._failed(error)
        else:
            if job is not None:
                self.tally.failing = False
                self._retry_seconds = _FIRST_RETRY_SECONDS
            elif self.tally.built > self._given_back:
                self._given_back = self.tally.built
                memory.give_back()
        with self._lock:
            self._has_turn = False
            self._woken = self._woken or job is not None
            if retry and not self._closed:
                self._retry = self._clock.after(retry, self._try_again)
            self._ask_for_turn()

    def _failed(self, error: Exception) -> float:
        """Records a failed build; returns the seconds until the next try, 0 when the collection is closing."""
        if self._closed:
            return 0.0
        seconds = self._retry_seconds
        self._retry_seconds = min(2 * seconds, _LAST_RETRY_SECONDS)
        self.tally.failures += 1
        self.tally.failing, self.tally.last_error = True, str(error)
        level = logging.ERROR if isinstance(error, _EXPECTED) else logging.CRITICAL
        logger.log(
            level,
            "%s: building a segment failed, next try in %.0f s: %s",
            self._name,
            seconds,
            error,
            exc_info=level == logging.CRITICAL,
        )
        return seconds

    def _try_again(self) -> None:
        with self._lock:
            self._retry = None
            self._woken = True
            self._ask_for_turn()

    def _do(self, job: Job) -> bool:
        """Builds and publishes; False when its sources changed meanwhile; another job is then due."""
        started = time.monotonic()
        before = self._index.snapshot.segments
        with self._index.watching() as watch:
            row = self._build(job)
            try:
                segment = None if row is None else self._load(row)
                self._publish(job, segment, watch)
            except BaseException as error:
                if row is not None:
                    self._files.remove_tree(self._folder / SEGMENTS_FOLDER / row.uid)
                # Where nothing has changed in memory, `choose` would pick the same job again, and it would fail again.
                outdated = isinstance(error, SegmentOutdated) and (
                    isinstance(error, GenerationDropped) or self._index.snapshot.segments is not before
                )
                if not outdated:
                    if isinstance(error, (SegmentDamaged, SegmentOutdated)):
                        raise BuildFailed(str(error)) from error
                    raise
                logger.info("%s: dropped a segment whose sources changed during the build: %s", self._name, error)
                return False
        self.tally.built += 1
        if row is None:
            return True
        logger.info(
            "%s: built segment %s with %d passages in %.1f s, replacing %d segments",
            self._name,
            row.uid,
            row.passages,
            time.monotonic() - started,
            len(job.replaced),
        )
        return True

    def _load(self, row: SegmentRow) -> Segment:
        return Segment.load(self._folder / SEGMENTS_FOLDER / row.uid, row, self._place.uid, self._place.dimension)

    def _build(self, job: Job) -> SegmentRow | None:
        spec = BuildSpec(
            database=str(self._folder / DATABASE_FILE),
            folder=str(self._folder / SEGMENTS_FOLDER),
            collection=self._place.uid,
            uid=uuid.uuid4().hex,
            generation=self._place.generation,
            dimension=self._place.dimension,
            low=job.low,
            high=job.high,
            seed=None if job.seed is None else job.seed.row,
            threads=max(1, (os.cpu_count() or 1) // 2),
        )
        # The child must import this very package, wherever it was imported from.
        root = str(Path(shortlist_server.__file__).parent.parent)
        inherited = os.environ.get("PYTHONPATH")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *([inherited] if inherited else [])])}
        with self._lock:
            if self._closed:
                raise BuildFailed("closing")
            child = self._child = subprocess.Popen(  # noqa: S603
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
        with child:
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(spec.dump() + "\n")
                child.stdin.flush()
            except BrokenPipeError:
                # The child is gone already; closing tries to write once more and fails.
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()
            said = child.stdout.read().strip().splitlines()
            code = child.wait()
        with self._lock:
            self._child = None
        if code != 0 or not said:
            self._files.remove_tree(self._folder / SEGMENTS_FOLDER / (TEMPORARY_PREFIX + spec.uid))
            self._files.remove_tree(self._folder / SEGMENTS_FOLDER / spec.uid)
            raise BuildFailed(f"the build ended with code {code}: {said[-1] if said else 'no message'}")
        values = json.loads(said[-1])
        return None if values is None else SegmentRow(**values)
