"""An open collection: puts together its connections, its indexes in memory, its writer and its compaction.

An ``OpenCollection`` lives from the opening to the closing of a collection; callers hold the ``EmbeddedCollection``,
which outlives it. The writer thread changes the database first and then, in the same order, what searches see: it alone
appends to the growing segment, marks rows dead and replaces the ``Snapshot``. Searches read the snapshot once and take
no lock. Any thread may call.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import (
    Change,
    CollectionConfig,
    CollectionInfo,
    Commit,
    DeadLetter,
    Deletion,
    DenseCandidates,
    Filter,
    StreamPosition,
    Vector,
)
from shortlist_server.errors import DataCorrupted, Unavailable
from shortlist_server.storage.compaction.reconcile import Difference, difference, reconcile
from shortlist_server.storage.compaction.recovery import recover
from shortlist_server.storage.compaction.scheduler import CompactionScheduler, CompactionTally
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.layout import DATABASE_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.lexical.index import LexicalIndex
from shortlist_server.storage.opening.facts import Facts, Settings, disk_bytes
from shortlist_server.storage.opening.identity import open_database
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.rows.deletion import BulkDeletion
from shortlist_server.storage.rows.filters import Condition, cache_key, compile_filter
from shortlist_server.storage.rows.id_index import check_id_index
from shortlist_server.storage.rows.metadata import parse_field
from shortlist_server.storage.rows.reader import ReaderPool, select_keys
from shortlist_server.storage.rows.settings import RaisedEf
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task, Writer
from shortlist_server.storage.values import Effect
from shortlist_server.storage.vectors import search as dense
from shortlist_server.storage.vectors.index import DenseIndex
from shortlist_server.storage.vectors.segments import Segment
from shortlist_server.storage.vectors.selection import KeySelection, SelectionCache

logger = logging.getLogger(__name__)

T = TypeVar("T")

_OWN_DESCRIPTORS = 4
"""Descriptors of the database, its log, the log's index and the record of commits. Each segment adds one, for its
mapped vectors."""


class OpenCollection:
    """The open parts of a collection.

    Attributes:
        settings: the settings in the database; the writer thread replaces the value.
        damage: the damaged segments that the opening dropped.
    """

    def __init__(self, name: str, folder: Path, parameters: Parameters, tally: CompactionTally) -> None:
        """Opens the collection and recovers from a crash, if there was one.

        Raises:
            DataCorrupted, NewerDataFormat, OutOfSpace, Overloaded, Unavailable: the collection cannot be opened.
        """
        self._name = name
        self._folder = folder
        self._parameters = parameters
        self._closed = False
        with translated(name):
            self._connection, self._record = open_database(folder, name, parameters.files)
            try:
                self._recover()
            except BaseException:
                self._connection.close()
                self._record.close()
                raise
        config = self.settings.config
        self._declared = frozenset(parse_field(field) for field in config.filterable_fields)
        self.pool = ReaderPool(folder / DATABASE_FILE, name, parameters.connections)
        self.lexicon = LexicalIndex(self.pool, lambda: self.index.snapshot.documents)
        self._selections = SelectionCache()
        self.compaction = CompactionScheduler(
            name, folder, self.settings.uid, config.dimension, self.index, self.submit, parameters, tally
        )
        self.deletions = BulkDeletion(self.submit, self._publish, parameters.crash_point)
        self.writer = Writer(
            name,
            self._connection,
            self._transaction,
            threads=parameters.writing_threads,
            clock=parameters.clock,
            has_room=self.compaction.has_room,
            waited=self.compaction.waited,
            reserve=parameters.reserve,
            crash_point=parameters.crash_point,
        )
        self.compaction.start()

    def _recover(self) -> None:
        self.settings = Settings.read(self._connection, self._name)
        dimension = self.settings.config.dimension
        check_id_index(self._connection, self._name)
        self._transaction = WriteTransaction(self._connection, dimension, self._record)
        recovered = recover(
            self._connection, self._folder, self._name, self.settings.uid, dimension, self._parameters.files
        )
        self.damage = recovered.damage
        self.index = DenseIndex(recovered.segments, recovered.growing, self._transaction.counters)
        found = sum(segment.live for segment in recovered.segments) + recovered.growing.live
        if found != self._transaction.counters.passages:
            raise DataCorrupted(
                f"collection '{self._name}' counts {self._transaction.counters.passages} passages but holds {found};"
                " restore a backup"
            )

    @property
    def snapshot(self) -> dense.Snapshot:
        """What searches see now."""
        return self.index.snapshot

    @property
    def descriptors(self) -> int:
        """File descriptors in use now, without those for the logs of its reading connections."""
        return _OWN_DESCRIPTORS + len(self.index.snapshot.segments) + self.pool.most_used

    @property
    def busy(self) -> bool:
        """Whether closing would interrupt work: a build of a segment, or giving space back to the disk."""
        return self.compaction.busy or self.deletions.reclaiming

    def facts(self, size: int | None = None) -> Facts:
        """Settings, counts and sizes, from memory and a few ``stat`` calls; none of those if ``size`` is given."""
        snapshot = self.index.snapshot
        if size is None:
            size = disk_bytes(self._folder, [segment.row.uid for segment in snapshot.segments])
        settings = self.settings
        info = CollectionInfo(
            name=self._name,
            config=settings.config,
            create_time_seconds=settings.create_time_seconds,
            sequence=snapshot.sequence,
            document_count=snapshot.documents,
            passage_count=snapshot.passages,
            segment_passage_count=sum(segment.live for segment in snapshot.segments),
            segment_count=len(snapshot.segments),
            disk_bytes=size,
        )
        return Facts(info=info, settings=settings)

    def submit(self, task: Task[T]) -> Future[T]:
        """Queues a task for the writer thread."""
        return self.writer.submit(task)

    def commit(
        self, changes: Sequence[Change], position: StreamPosition | None, failures: Sequence[DeadLetter]
    ) -> Future[Commit]:
        """Applies changes in order, all or none; see ``CollectionStore.commit``."""

        def publish(applied: tuple[Commit, Effect]) -> Commit:
            commit, effect = applied
            self._publish(effect)
            return commit

        deletes = bool(changes) and all(isinstance(change, Deletion) for change in changes)
        return self.submit(
            Task(
                lambda transaction: transaction.apply(changes, position, failures),
                publish,
                weight=len(changes),
                grows=bool(changes) and not deletes,
                frees=deletes,
            )
        )

    def save_settings(
        self, change: Callable[[CollectionConfig, RaisedEf], tuple[CollectionConfig, RaisedEf]]
    ) -> Future[None]:
        """Changes settings durably; readers see the change after the commit."""

        def apply(transaction: WriteTransaction) -> tuple[CollectionConfig, RaisedEf]:
            before = transaction.config(), transaction.raised_ef()
            config, raised = change(*before)
            if config != before[0]:
                transaction.save_config(config)
            if raised != before[1]:
                transaction.save_raised_ef(raised)
            return config, raised

        def publish(saved: tuple[CollectionConfig, RaisedEf]) -> None:
            self.settings = replace(self.settings, config=saved[0], raised_ef=saved[1])

        return self.submit(Task(apply, publish))

    def _publish(self, effect: Effect) -> None:
        if effect.removed_keys:
            self._selections.forget(effect.counters.sequence, effect.removed_keys)
        self.index.publish(effect, effect.counters)
        self.compaction.changed()

    def condition(self, filter: Filter) -> Condition:
        """A filter as SQL."""
        return compile_filter(filter, self._declared)

    def select(self, filter: Filter) -> KeySelection:
        """Resolves a filter at the current sequence. Results are cached by filter and sequence."""
        condition = self.condition(filter)

        def select(after: int) -> NDArray[np.int64]:
            with self.pool.connection() as connection:
                return select_keys(connection, condition, after)

        return self._selections.resolve(cache_key(filter), self.index.snapshot.sequence, select)

    def dense(
        self, vector: Vector, documents: int, selection: KeySelection | None, *, ef: int, exact: bool
    ) -> DenseCandidates:
        """The passages nearest to ``vector``; see ``CollectionStore.dense``."""
        self._check_open()
        return dense.search(
            self.index.snapshot, vector, documents, selection, ef=ef, exact=exact, pool=self._parameters.pool
        )

    def dense_scores(self, vector: Vector, keys: Sequence[int]) -> DenseCandidates:
        """All live passages of these documents with their exact cosine, best first."""
        self._check_open()
        return dense.score_documents(self.index.snapshot, vector, keys)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"collection '{self._name}' is closed")

    def difference(self) -> Difference:
        """Compares the dense index with the database; commits wait meanwhile."""
        return difference(self.index, self.submit)

    def repair(self, *, lexical: bool, dense: bool, segments: Sequence[Segment]) -> list[str]:
        """Rebuilds what can be rebuilt from the database; see ``EmbeddedCollection.repair``."""
        done = []
        if dense:
            forgotten = reconcile(self.index, self.submit, self.settings.config.dimension)
            for uid in forgotten:
                self._parameters.files.remove_tree(self._folder / SEGMENTS_FOLDER / uid)
            done.append(
                f"the dense index was made to agree with the database; {len(forgotten)} segments were set aside"
            )
        if lexical:
            self.submit(Task(lambda transaction: transaction.rebuild_lexical(), lambda _: None)).result()
            done.append("the lexical index was rebuilt")
        done += [f"segment {one.row.uid} was rebuilt" for one in segments if self.compaction.rebuild(one)]
        if count := self.compaction.flush_now():
            done.append(f"{count} segments were built from passages that were searched exactly")
        return done

    def close(self) -> None:
        """Ends maintenance, finishes submitted commits, checkpoints and closes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.compaction.close()
        self.writer.close()
        self.pool.close()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            # The write-ahead log has everything, and the next opening reads it.
            logger.warning("collection '%s': the last checkpoint failed: %s", self._name, error)
        try:
            self._connection.close()
        except sqlite3.Error as error:
            logger.warning("collection '%s': closing failed: %s", self._name, error)
        self._record.close()
