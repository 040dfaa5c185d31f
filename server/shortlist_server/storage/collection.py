"""One collection of the embedded store: truth, indexes and maintenance put together.

The writer thread changes the truth and then, in the same order, what searches see: it alone appends to the tail, marks
rows dead and replaces the ``View``. Searches read the view once and take no lock. Any thread may call any method.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from shortlist_server.domain import (
    Change,
    CollectionConfig,
    CollectionInfo,
    Commit,
    Deletion,
    DenseCandidates,
    Filter,
    LexicalCandidates,
    Parts,
    Quarantined,
    SearchDefaults,
    StoredDocument,
    StoredPassage,
    StreamPosition,
    Vector,
)
from shortlist_server.errors import DataCorrupted, Unavailable, UnsupportedByCollection
from shortlist_server.storage import dense, quarantine, schema, settings
from shortlist_server.storage.base import Selection
from shortlist_server.storage.deletion import BulkDeletion
from shortlist_server.storage.faults import translated
from shortlist_server.storage.filters import Condition, cache_key, compile_filter
from shortlist_server.storage.id_index import check_id_index
from shortlist_server.storage.identity import DATABASE_FILE, open_database
from shortlist_server.storage.index import DenseIndex
from shortlist_server.storage.lexical import Lexicon
from shortlist_server.storage.manifest import DATA_FILES, MANIFEST_FILE
from shortlist_server.storage.metadata import parse_field
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.reader import Reader, ReaderPool
from shortlist_server.storage.recovery import recover
from shortlist_server.storage.segments import Segment
from shortlist_server.storage.selection import KeySelection, SelectionCache
from shortlist_server.storage.settings import NOT_RAISED, RaisedEf
from shortlist_server.storage.truth import Effect, Truth
from shortlist_server.storage.upkeep import CollectionStats, Upkeep
from shortlist_server.storage.writer import Task, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

SEGMENTS_FOLDER = "segments"


class EmbeddedCollection:
    """A ``CollectionStore`` over SQLite and HNSW segments in one folder."""

    def __init__(self, name: str, folder: Path, parameters: Parameters) -> None:
        self._name = name
        self._folder = folder
        self._parameters = parameters
        self._closed = False
        with translated(name):
            self._connection, self._record = open_database(folder, name, parameters.files)
            try:
                self._open(parameters)
            except BaseException:
                self._connection.close()
                self._record.close()
                raise
        self._pool = ReaderPool(folder / DATABASE_FILE, name)
        self._reader = Reader(self._pool)
        self._lexicon = Lexicon(self._pool, lambda: self._index.view.documents)
        self._selections = SelectionCache()
        self._upkeep = Upkeep(name, folder, self._uid, self._config.dimension, self._index, self._submit, parameters)
        self._deletions = BulkDeletion(self._submit, self._publish, parameters.crash_point)
        self._writer = Writer(
            name,
            self._connection,
            self._truth,
            wait_for_room=self._upkeep.wait_for_room,
            reserve=parameters.reserve,
            crash_point=parameters.crash_point,
        )
        self._upkeep.start()

    def _open(self, parameters: Parameters) -> None:
        stored = schema.read_settings(self._connection)
        try:
            self._config = settings.load(stored["config"])
            self._uid = stored["uid"]
            self._create_time = float(stored["create_time"])
            self._raised_ef = settings.load_raised_ef(stored.get("raised_ef"))
        except (KeyError, ValueError, TypeError) as error:
            raise DataCorrupted(
                f"the settings of collection {self._name} cannot be read ({error}); restore a backup"
            ) from error
        self._declared = frozenset(parse_field(field) for field in self._config.filterable_fields)
        check_id_index(self._connection, self._name)
        self._truth = Truth(self._connection, self._config.dimension, self._record)
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

    def ef(self, *, filtered: bool) -> int:
        """Breadth of dense searches that ask for none."""
        return max(self._config.search_defaults.ef or dense.DEFAULT_BREADTH, self._raised_ef[filtered])

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
        return self._upkeep.stats(self.damage)

    def seal_now(self) -> int:
        """Seals the whole tail, waiting for the builds; returns the number of segments made.

        Raises:
            BuildFailed: a build failed; nothing of it has changed anything.
        """
        return self._upkeep.seal_now()

    def merge_now(self) -> int:
        """Merges neighbouring segments as far as their cap allows, waiting for the builds; returns their number.

        Raises:
            BuildFailed: a build failed; what it was to replace is as it was.
        """
        return self._upkeep.merge_now()

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

    def repair(self, *, lexical: bool, segments: Sequence[Segment]) -> list[str]:
        """Rebuilds from the database: the lexical index, the segments named, and those that are missing.

        Returns:
            What was done, a line each.
        """
        done = []
        if lexical:
            self.run(Task(lambda truth: truth.rebuild_lexical(), lambda _: None))
            done.append("the lexical index was rebuilt")
        done += [f"segment {one.row.uid} was rebuilt" for one in segments if self._upkeep.rebuild(one)]
        if count := self.seal_now():
            done.append(f"{count} segments were built from passages that were searched exactly")
        return done

    # ------------------------------------------------------------------------------------------------------ writes

    def commit(
        self,
        changes: Sequence[Change],
        position: StreamPosition | None = None,
        failures: Sequence[Quarantined] = (),
    ) -> Future[Commit]:
        """Applies changes in order, all or none; see ``CollectionStore.commit``."""
        changes = tuple(changes)

        def publish(applied: tuple[Commit, Effect]) -> Commit:
            commit, effect = applied
            self._publish(effect)
            return commit

        deletes = bool(changes) and all(isinstance(change, Deletion) for change in changes)
        return self._writer.submit(
            Task(
                lambda truth: truth.apply(changes, position, failures),
                publish,
                weight=len(changes),
                grows=bool(changes) and not deletes,
                frees=deletes,
            )
        )

    def delete_matching(self, filter: Filter) -> Future[int]:
        """Deletes the documents that pass now, in several transactions, so that other writes go on between them."""
        return self._deletions.delete(self._select(filter).keys.tolist())

    def update_search_defaults(self, defaults: SearchDefaults) -> None:
        """Replaces the search defaults, durably."""

        def apply(truth: Truth) -> tuple[CollectionConfig, RaisedEf]:
            before, raised = truth.config(), truth.raised_ef()
            config = replace(before, search_defaults=defaults)
            truth.save_config(config)
            if _recall_preset(defaults) != _recall_preset(before.search_defaults):
                raised = NOT_RAISED
                truth.save_raised_ef(raised)
            return config, raised

        self._writer.submit(Task(apply, self._show_settings)).result()

    def raise_ef(self, ef: int, *, filtered: bool, under: SearchDefaults) -> None:
        """Raises the breadth of searches that ask for none, durably; see ``CollectionStore.raise_ef``."""

        def apply(truth: Truth) -> tuple[CollectionConfig, RaisedEf]:
            config, raised = truth.config(), truth.raised_ef()
            if _recall_preset(config.search_defaults) == _recall_preset(under):
                raised = (raised[0], ef) if filtered else (ef, raised[1])
                truth.save_raised_ef(raised)
            return config, raised

        self._writer.submit(Task(apply, self._show_settings)).result()

    def _show_settings(self, saved: tuple[CollectionConfig, RaisedEf]) -> None:
        self._config, self._raised_ef = saved

    # ------------------------------------------------------------------------------------------------------- reads

    def stream_position(self, stream: str) -> int:
        """The last position committed for a named stream; 0 for an unknown one."""
        return self._reader.stream_position(stream)

    def failures(self, stream: str, first: int, last: int) -> Mapping[int, Quarantined]:
        """The recorded failures of a stream between two positions, by position."""
        with self.reading() as connection:
            return quarantine.of_stream(connection, stream, first, last)

    def quarantined(self, after: int, limit: int) -> tuple[Sequence[Quarantined], int | None]:
        """A page of the recorded failures; see ``CollectionStore.quarantined``."""
        with self.reading() as connection:
            return quarantine.page(connection, after, limit)

    def quarantined_by_number(self, numbers: Sequence[int]) -> Sequence[Quarantined]:
        """The recorded failures with these numbers that are there, oldest first."""
        with self.reading() as connection:
            return quarantine.by_number(connection, numbers)

    def forget_quarantined(self, numbers: Sequence[int]) -> Future[int]:
        """Forgets failures by number; the future has how many were there."""
        numbers = tuple(numbers)
        return self._writer.submit(
            Task(lambda truth: quarantine.forget(truth.connection, numbers), lambda forgotten: forgotten)
        )

    def unchanged(self, hashes: Mapping[str, bytes]) -> Mapping[str, int]:
        """Of documents by id with their content hashes, those stored with an equal hash, with their sequence."""
        return self._reader.unchanged(hashes)

    def keys(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Document key of each id that exists."""
        return self._reader.keys(ids)

    def documents_by_id(self, ids: Sequence[str], parts: Parts) -> Mapping[str, StoredDocument]:
        """The documents with these ids that exist, by id, with the parts asked for."""
        return self._reader.documents_by_id(ids, parts)

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
            ef=ef or self.ef(filtered=selection is not None),
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

    # ----------------------------------------------------------------------------------------------------- changes

    def _publish(self, effect: Effect) -> None:
        if effect.removed_keys:
            self._selections.forget(effect.counters.sequence, effect.removed_keys)
        self._index.publish(effect, effect.counters)
        self._upkeep.changed()

    def _submit(self, task: Task[T]) -> Future[T]:
        return self._writer.submit(task)

    def close(self) -> None:
        """Ends maintenance, finishes submitted commits, checkpoints and closes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._upkeep.close()
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
        self._record.close()


def _recall_preset(defaults: SearchDefaults) -> tuple[int | None, float | None]:
    """What a raised breadth was measured against: with another, raising begins anew."""
    return defaults.ef, defaults.recall_target
