"""One collection of the embedded store: truth, indexes and maintenance put together.

The writer thread changes the truth and then, in the same order, what searches see: it alone appends to the tail, marks
rows dead and replaces the ``View``. Searches read the view once and take no lock. Any thread may call any method.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from shortlist_server.config import Config
from shortlist_server.domain import (
    Change,
    CollectionConfig,
    CollectionInfo,
    Commit,
    DenseCandidates,
    Filter,
    LexicalCandidates,
    Parts,
    SearchDefaults,
    StoredDocument,
    StoredPassage,
    StreamPosition,
    Vector,
)
from shortlist_server.errors import DataCorrupted, Unavailable, UnsupportedByCollection
from shortlist_server.storage import dense, schema, settings
from shortlist_server.storage.base import Selection
from shortlist_server.storage.faults import translated
from shortlist_server.storage.files import CrashPoint, Files
from shortlist_server.storage.filters import Condition, cache_key, compile_filter
from shortlist_server.storage.index import DenseIndex, Job, Watch
from shortlist_server.storage.lexical import Lexicon
from shortlist_server.storage.maintenance import Caretaker, next_merge, next_seal
from shortlist_server.storage.manifest import DATA_FILES, MANIFEST_FILE
from shortlist_server.storage.metadata import parse_field
from shortlist_server.storage.reader import Reader, ReaderPool
from shortlist_server.storage.recovery import recover
from shortlist_server.storage.segments import Segment
from shortlist_server.storage.selection import KeySelection, SelectionCache
from shortlist_server.storage.truth import Effect, Truth
from shortlist_server.storage.writer import Task, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_FILE = "collection.db"
SEGMENTS_FOLDER = "segments"

_DELETE_AT_ONCE = 500
_RECLAIM_DOCUMENTS = 1000
_RECLAIM_PAGES = 256
_IDLE_SECONDS = 10.0
_TAIL_LIMIT_SEGMENTS = 16
_TAIL_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a collection is given by its store."""

    config: Config
    files: Files
    crash_point: CrashPoint
    builder: tuple[str, ...]
    pool: ThreadPoolExecutor
    maintain: bool = True


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
        builds, build_failures: since the collection was opened.
        failing: whether the last build failed; searches are right but slower until one succeeds.
        waited_seconds: time commits were held back because the tail outgrew the builder.
        damaged_segments: those that were forgotten when the collection was opened, and why.
    """

    tail_passages: int
    segments: tuple[SegmentStats, ...]
    builds: int
    build_failures: int
    failing: bool
    last_build_error: str
    waited_seconds: float
    damaged_segments: tuple[str, ...]


class EmbeddedCollection:
    """A ``CollectionStore`` over SQLite and HNSW segments in one folder."""

    def __init__(self, name: str, folder: Path, parameters: Parameters) -> None:
        self._name = name
        self._folder = folder
        self._parameters = parameters
        self._closed = False
        with translated(name):
            self._connection = schema.open_writer(folder / DATABASE_FILE, name)
            try:
                self._open(parameters)
            except BaseException:
                self._connection.close()
                raise
        self._pool = ReaderPool(folder / DATABASE_FILE, name)
        self._reader = Reader(self._pool)
        self._lexicon = Lexicon(self._pool, lambda: self._index.view.documents)
        self._selections = SelectionCache()
        self._room = threading.Condition()
        self._waited_seconds = 0.0
        self._reclaiming = False
        self._last_change = time.monotonic()
        self._writer = Writer(
            name,
            self._connection,
            self._truth,
            wait_for_room=self._wait_for_room,
            crash_point=parameters.crash_point,
        )
        self._sealer = self._caretaker("seal", self._next_seal)
        self._merger = self._caretaker("merge", self._next_merge)
        if parameters.maintain:
            self._sealer.start()
            self._merger.start()

    def _open(self, parameters: Parameters) -> None:
        stored = schema.read_settings(self._connection)
        try:
            self._config = settings.load(stored["config"])
            self._uid = stored["uid"]
            self._create_time = float(stored["create_time"])
        except (KeyError, ValueError, TypeError) as error:
            raise DataCorrupted(
                f"the settings of collection {self._name} cannot be read ({error}); restore a backup"
            ) from error
        self._declared = frozenset(parse_field(field) for field in self._config.filterable_fields)
        self._truth = Truth(self._connection, self._config.dimension)
        recovered = recover(
            self._connection, self._folder, self._name, self._uid, self._config.dimension, parameters.files
        )
        self.damage = recovered.damage
        self._index = DenseIndex(recovered.segments, recovered.tail, self._truth.counters)
        found = sum(segment.live for segment in recovered.segments) + recovered.tail.live
        if found != self._truth.counters.passages:
            raise DataCorrupted(
                f"collection {self._name} counts {self._truth.counters.passages} passages but holds {found};"
                " restore a backup"
            )

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def config(self) -> CollectionConfig:
        """What it was made with, with the search defaults as last updated."""
        return self._config

    @property
    def sequence(self) -> int:
        """Sequence of the last commit."""
        return self._index.view.sequence

    def info(self) -> CollectionInfo:
        """Counts and sizes now, from memory and a few ``stat`` calls."""
        view = self._index.view
        return CollectionInfo(
            name=self._name,
            config=self._config,
            create_time_seconds=self._create_time,
            sequence=view.sequence,
            document_count=view.documents,
            passage_count=view.passages,
            segment_passage_count=sum(segment.live for segment in view.segments),
            segment_count=len(view.segments),
            disk_bytes=self._disk_bytes(view),
        )

    def _disk_bytes(self, view: dense.View) -> int:
        total = 0
        paths = [self._folder / (DATABASE_FILE + suffix) for suffix in ("", "-wal", "-shm")]
        for segment in view.segments:
            folder = self._folder / SEGMENTS_FOLDER / segment.row.uid
            paths += [folder / name for name in (*DATA_FILES, MANIFEST_FILE)]
        for path in paths:
            try:
                total += path.stat().st_size
            except OSError:
                # A segment may be replaced, and the WAL removed, between two calls.
                continue
        return total

    def stats(self) -> CollectionStats:
        """How maintenance is doing, for an operator."""
        view = self._index.view
        return CollectionStats(
            tail_passages=view.tail.live,
            segments=tuple(
                SegmentStats(uid=one.row.uid, passages=one.live, dead_passages=len(one.labels) - one.live)
                for one in view.segments
            ),
            builds=self._sealer.built + self._merger.built,
            build_failures=self._sealer.failures + self._merger.failures,
            failing=self._sealer.failing or self._merger.failing,
            last_build_error=self._sealer.last_error or self._merger.last_error,
            waited_seconds=self._waited_seconds,
            damaged_segments=tuple(f"{one.uid}: {one.problem}" for one in self.damage),
        )

    # ------------------------------------------------------------------------------- for verification and backup

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    @property
    def uid(self) -> str:
        """What its segments are marked with."""
        return self._uid

    @property
    def view(self) -> dense.View:
        """What searches see now."""
        return self._index.view

    @property
    def readers(self) -> ReaderPool:
        """Its reading connections."""
        return self._pool

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A reading connection for the time of a block."""
        return self._pool.connection()

    def run(self, task: Task[T]) -> T:
        """Runs a task on the writer thread and waits for it."""
        return self._writer.submit(task).result()

    def repair(self, unreachable: Sequence[Segment]) -> list[str]:
        """Rebuilds from the database what can be: the lexical index, damaged segments, and those named.

        Returns:
            What was done, a line each.
        """
        done = []
        self.run(Task(lambda truth: truth.rebuild_lexical(), lambda _: None))
        done.append("the lexical index was rebuilt")
        for segment in unreachable:
            job = Job(low=segment.row.low, high=segment.row.high, replaced=(segment,))
            jobs = iter([job] if segment in self.view.segments else [])
            if self._merger.work(lambda jobs=jobs: next(jobs, None)):  # type: ignore[misc]
                done.append(f"segment {segment.row.uid} was rebuilt")
        if count := self.seal_now():
            done.append(f"{count} segments were built from passages that were searched exactly")
        return done

    # ------------------------------------------------------------------------------------------------------ writes

    def commit(self, changes: Sequence[Change], position: StreamPosition | None = None) -> Future[Commit]:
        """Applies changes in order, all or none; see ``CollectionStore.commit``."""
        changes = tuple(changes)

        def publish(applied: tuple[Commit, Effect]) -> Commit:
            commit, effect = applied
            self._publish(effect)
            return commit

        return self._writer.submit(
            Task(lambda truth: truth.apply(changes, position), publish, weight=len(changes), grows=bool(changes))
        )

    def delete_matching(self, filter: Filter) -> Future[int]:
        """Deletes the documents that pass now, in several transactions, so that other writes go on between them."""
        keys = self._select(filter).keys.tolist()
        done: Future[int] = Future()
        done.set_running_or_notify_cancel()
        self._delete_next(keys, 0, 0, done)
        return done

    def _delete_next(self, keys: list[int], start: int, deleted: int, done: Future[int]) -> None:
        if start >= len(keys):
            done.set_result(deleted)
            self._reclaim_later(deleted)
            return
        chunk = keys[start : start + _DELETE_AT_ONCE]

        def publish(effect: Effect) -> int:
            self._publish(effect)
            return len(effect.removed_keys)

        def go_on(chunk_done: Future[int]) -> None:
            error = chunk_done.exception()
            if error is not None:
                done.set_exception(error)
            else:
                self._delete_next(keys, start + len(chunk), deleted + chunk_done.result(), done)

        try:
            task = Task(lambda truth: truth.remove(chunk), publish, weight=len(chunk))
            self._writer.submit(task).add_done_callback(go_on)
        except Unavailable as error:
            done.set_exception(error)

    def _reclaim_later(self, deleted: int) -> None:
        """Gives the space of a large deletion back, a few pages a transaction, between the writes of others."""
        if deleted < _RECLAIM_DOCUMENTS or self._reclaiming:
            return
        self._reclaiming = True

        def step(truth: Truth) -> bool:
            return truth.merge_lexical(_RECLAIM_PAGES) < 2 and truth.reclaim(_RECLAIM_PAGES) == 0

        def go_on(finished: Future[bool]) -> None:
            # An error, such as a full disk, ends it: the next large deletion tries again.
            if finished.exception() is not None or finished.result():
                self._reclaiming = False
            else:
                submit()

        def submit() -> None:
            try:
                self._writer.submit(Task(step, lambda done: done)).add_done_callback(go_on)
            except Unavailable:
                self._reclaiming = False

        submit()

    def update_search_defaults(self, defaults: SearchDefaults) -> None:
        """Replaces the search defaults, durably."""

        def apply(truth: Truth) -> CollectionConfig:
            config = replace(self._config, search_defaults=defaults)
            truth.save_config(config)
            return config

        def publish(config: CollectionConfig) -> None:
            self._config = config

        self._writer.submit(Task(apply, publish)).result()

    # ------------------------------------------------------------------------------------------------------- reads

    def stream_position(self, stream: str) -> int:
        """The last position committed for a named stream; 0 for an unknown one."""
        return self._reader.stream_position(stream)

    def unchanged(self, hashes: Mapping[str, bytes]) -> Mapping[str, int]:
        """Of documents by id with their content hashes, those stored with an equal hash, with their sequence."""
        return self._reader.unchanged(hashes)

    def keys(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Document key of each id that exists."""
        return self._reader.keys(ids)

    def documents(self, keys: Sequence[int], parts: Parts) -> Mapping[int, StoredDocument]:
        """The documents with these keys that still exist, by key, with the parts asked for."""
        return self._reader.documents(keys, parts)

    def page(
        self, filter: Filter | None, after: int, limit: int, parts: Parts
    ) -> tuple[Sequence[StoredDocument], int | None]:
        """A page of the documents that pass, by sequence, and where the next one starts."""
        condition = None if filter is None else self._condition(filter)
        return self._reader.page(condition, after, limit, parts)

    def count(self, filter: Filter | None) -> int:
        """Number of live documents that pass."""
        return self._index.view.documents if filter is None else self._select(filter).matches

    def select(self, filter: Filter) -> Selection:
        """Resolves a filter at the present sequence; cached by filter and sequence."""
        return self._select(filter)

    def passages(
        self, labels: Sequence[int], *, vectors: bool = False, token_vectors: bool = False
    ) -> Mapping[int, StoredPassage]:
        """The passages with these labels that still exist, by label."""
        return self._reader.passages(labels, vectors=vectors, token_vectors=token_vectors)

    def dense(
        self,
        vector: Vector,
        documents: int,
        selection: Selection | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
    ) -> DenseCandidates:
        """The passages nearest to ``vector``; see ``CollectionStore.dense``."""
        self._check_open()
        assert selection is None or isinstance(selection, KeySelection)
        return dense.search(
            self._index.view,
            self._checked(vector),
            documents,
            selection,
            ef=ef,
            exact=exact,
            pool=self._parameters.pool,
        )

    def dense_scores(self, vector: Vector, keys: Sequence[int]) -> DenseCandidates:
        """All live passages of these documents with their exact cosine, best first."""
        self._check_open()
        return dense.score_documents(self._index.view, self._checked(vector), keys)

    def lexical(self, text: str, documents: int, selection: Selection | None = None) -> LexicalCandidates:
        """The documents that share words with ``text``, best by BM25 first."""
        assert selection is None or isinstance(selection, KeySelection)
        return self._lexicon.search(text, documents, selection)

    def _checked(self, vector: Vector) -> Vector:
        if vector.shape != (self._config.dimension,):
            raise UnsupportedByCollection(
                f"collection {self._name} has vectors of {self._config.dimension} dimensions, the query's has"
                f" shape {vector.shape}",
                metadata={"collection": self._name, "dimension": str(self._config.dimension)},
            )
        return np.ascontiguousarray(vector, dtype=np.float32)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"collection {self._name} is closed")

    def _condition(self, filter: Filter) -> Condition:
        return compile_filter(filter, self._declared)

    def _select(self, filter: Filter) -> KeySelection:
        condition = self._condition(filter)
        return self._selections.resolve(
            cache_key(filter), self._index.view.sequence, lambda after: self._reader.select(condition, after)
        )

    # -------------------------------------------------------------------------------------------------- maintenance

    def _publish(self, effect: Effect) -> None:
        if effect.removed_keys:
            self._selections.forget(effect.counters.sequence, effect.removed_keys)
        self._index.publish(effect, effect.counters)
        self._last_change = time.monotonic()
        if self._index.view.tail.live >= self._parameters.config.segment_min_passages:
            self._sealer.wake()

    def _caretaker(self, kind: str, choose: Callable[[], Job | None]) -> Caretaker:
        return Caretaker(
            f"{kind}-{self._name}",
            self._folder,
            self._uid,
            self._config.dimension,
            index=self._index,
            choose=choose,
            publish=self._publish_segment,
            files=self._parameters.files,
            command=self._parameters.builder,
        )

    def seal_now(self) -> int:
        """Seals the whole tail, waiting for the build; returns the number of segments made.

        Raises:
            BuildFailed: the build failed; nothing has changed.
        """
        return self._sealer.work(lambda: next_seal(self._index.view, 1, self._parameters.config.segment_max_passages))

    def merge_now(self) -> int:
        """Merges neighbouring segments as far as their cap allows, waiting for the builds; returns their number.

        Raises:
            BuildFailed: a build failed; what it was to replace is as it was.
        """
        config = self._parameters.config
        return self._merger.work(
            lambda: next_merge(self._index.view, config.segment_min_passages, config.segment_max_passages, idle=True)
        )

    def _next_seal(self) -> Job | None:
        config = self._parameters.config
        return next_seal(self._index.view, config.segment_min_passages, config.segment_max_passages)

    def _next_merge(self) -> Job | None:
        config = self._parameters.config
        idle = time.monotonic() - self._last_change > _IDLE_SECONDS
        return next_merge(self._index.view, config.segment_min_passages, config.segment_max_passages, idle=idle)

    def _publish_segment(self, job: Job, segment: Segment | None, watch: Watch) -> None:
        """Flips the manifest; runs on a caretaker's thread and waits for the writer's."""
        crash_point = self._parameters.crash_point

        def apply(truth: Truth) -> None:
            self._index.admit(job, segment, watch)
            truth.replace_segments([old.row.uid for old in job.replaced], None if segment is None else segment.row)
            crash_point("publish:before")

        def publish(_: None) -> None:
            crash_point("publish:after")
            self._index.swap(job, segment)
            with self._room:
                self._room.notify_all()

        self._writer.submit(Task(apply, publish)).result()
        for old in job.replaced:
            self._parameters.files.remove_tree(self._folder / SEGMENTS_FOLDER / old.row.uid)
        crash_point("publish:removed")

    def _wait_for_room(self) -> None:
        """Slows growth while the tail outgrows the builder: every search scans the tail."""
        limit = _TAIL_LIMIT_SEGMENTS * self._parameters.config.segment_min_passages
        start = time.monotonic()
        until = start + _TAIL_WAIT_SECONDS
        with self._room:
            while (
                self._index.view.tail.live >= limit
                and not self._closed
                and not self._sealer.failing
                and (left := until - time.monotonic()) > 0
            ):
                self._room.wait(left)
        self._waited_seconds += time.monotonic() - start

    def close(self) -> None:
        """Ends maintenance, finishes submitted commits, checkpoints and closes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._sealer.close()
        self._merger.close()
        self._writer.close()
        self._pool.close()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            # All is in the write-ahead log, which the next start reads.
            logger.warning("collection %s: the last checkpoint failed: %s", self._name, error)
        try:
            self._connection.close()
        except sqlite3.Error as error:
            logger.warning("collection %s: closing failed: %s", self._name, error)
