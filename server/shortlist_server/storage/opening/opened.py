"""An open collection: puts together its connections, its generations in memory and its writer.

An ``OpenCollection`` lives from the opening to the closing of a collection; callers hold the ``EmbeddedCollection``,
which outlives it. The writer thread changes the database first and then, in the same order, what searches see: it alone
appends to growing segments, marks rows dead and replaces ``Snapshot`` and ``Shown``. Searches read them once and take
no lock. Any thread may call.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import (
    Change,
    CollectionInfo,
    Commit,
    DeadLetter,
    Deletion,
    Filter,
    StreamPosition,
)
from shortlist_server.errors import GenerationNotFound
from shortlist_server.storage.compaction.reconcile import Difference, difference, reconcile
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.generations.generation import OpenGeneration
from shortlist_server.storage.generations.generations import Generations, Tallies
from shortlist_server.storage.generations.shown import Settings
from shortlist_server.storage.layout import DATABASE_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.lexical.index import LexicalIndex
from shortlist_server.storage.opening.facts import Facts, disk_bytes
from shortlist_server.storage.opening.identity import open_database
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.rows.deletion import BulkDeletion
from shortlist_server.storage.rows.filters import Condition, cache_key, compile_filter
from shortlist_server.storage.rows.id_index import check_id_index
from shortlist_server.storage.rows.metadata import parse_field
from shortlist_server.storage.rows.reader import ReaderPool, select_keys
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task, Writer
from shortlist_server.storage.values import Effect
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
        generations: its generations, and what callers see of them and of the settings.
        pool: its reading connections.
        lexicon: its lexical index.
        deletions: its large deletions.
    """

    def __init__(self, name: str, folder: Path, parameters: Parameters, tallies: Tallies) -> None:
        """Opens the collection and recovers from a crash, if there was one.

        Raises:
            DataCorrupted, NewerDataFormat, OutOfSpace, Overloaded, Unavailable: the collection cannot be opened.
        """
        self._name = name
        self._folder = folder
        self._parameters = parameters
        self._closed = False
        self.deletions = BulkDeletion(self.submit, self._publish, parameters.crash_point)
        self.generations = Generations(name, folder, self.submit, parameters, tallies)
        with translated(name):
            self._connection, self._record = open_database(folder, name, parameters.files)
            try:
                settings = Settings.read(self._connection, name)
                check_id_index(self._connection, name)
                transaction = WriteTransaction(self._connection, self._record)
                self.generations.recover(self._connection, transaction, settings)
            except BaseException:
                self._connection.close()
                self._record.close()
                raise
        self._declared = frozenset(parse_field(field) for field in settings.config.filterable_fields)
        self.pool = ReaderPool(folder / DATABASE_FILE, name, parameters.connections)
        self.lexicon = LexicalIndex(self.pool, lambda: self.generations.shown.counters.documents)
        self._selections = SelectionCache()
        self.writer = Writer(
            name,
            self._connection,
            transaction,
            threads=parameters.writing_threads,
            clock=parameters.clock,
            has_room=self.generations.has_room,
            waited=self.generations.waited,
            reserve=parameters.reserve,
            crash_point=parameters.crash_point,
        )
        self.generations.start()

    @property
    def settings(self) -> Settings:
        """The settings in the database."""
        return self.generations.shown.settings

    @property
    def serving(self) -> OpenGeneration:
        """The generation that serves."""
        return self.generations.shown.serving

    @property
    def sequence(self) -> int:
        """Sequence of the last commit that searches see."""
        return self.generations.shown.counters.sequence

    @property
    def descriptors(self) -> int:
        """File descriptors in use now, without those for the logs of its reading connections."""
        segments = sum(len(one.index.snapshot.segments) for one in self.generations.shown.generations.values())
        return _OWN_DESCRIPTORS + segments + self.pool.most_used

    @property
    def busy(self) -> bool:
        """Whether closing would interrupt work: a build of a segment, a drop, or giving space back to the disk."""
        return self.generations.busy or self.deletions.reclaiming

    def facts(self, size: int | None = None) -> Facts:
        """Settings, counts and sizes, from memory and a few ``stat`` calls; none of those if ``size`` is given."""
        shown = self.generations.shown
        snapshot = shown.serving.index.snapshot
        look = size is None
        if size is None:
            segments = [one.row.uid for each in shown.generations.values() for one in each.index.snapshot.segments]
            size = disk_bytes(self._folder, segments)
        settings = shown.settings
        info = CollectionInfo(
            name=self._name,
            config=settings.config,
            create_time_seconds=settings.create_time_seconds,
            sequence=shown.counters.sequence,
            document_count=shown.counters.documents,
            passage_count=snapshot.passages,
            segment_passage_count=sum(segment.live for segment in snapshot.segments),
            segment_count=len(snapshot.segments),
            disk_bytes=size,
            generation=shown.serving.number,
        )
        return Facts(info=info, settings=settings, generations=self.generations.describe(look=look))

    def submit(self, task: Task[T]) -> Future[T]:
        """Queues a task for the writer thread."""
        return self.writer.submit(task)

    def commit(
        self, changes: Sequence[Change], position: StreamPosition | None, failures: Sequence[DeadLetter]
    ) -> Future[Commit]:
        """Applies changes in order, all or none; see ``CollectionStore.commit``."""

        def apply(transaction: WriteTransaction) -> tuple[Commit, Effect]:
            applied = transaction.apply(changes, position, failures)
            self.generations.marker.announce(transaction.counters)
            return applied

        def publish(applied: tuple[Commit, Effect]) -> Commit:
            commit, effect = applied
            self._publish(effect)
            return commit

        deletes = bool(changes) and all(isinstance(change, Deletion) for change in changes)
        return self.submit(
            Task(
                apply,
                publish,
                weight=len(changes),
                grows=bool(changes) and not deletes,
                frees=deletes,
            )
        )

    def _publish(self, effect: Effect) -> None:
        if effect.removed_keys:
            self._selections.forget(effect.counters.sequence, effect.removed_keys)
        self.generations.publish(effect)

    def condition(self, filter: Filter) -> Condition:
        """A filter as SQL."""
        return compile_filter(filter, self._declared)

    def select(self, filter: Filter) -> KeySelection:
        """Resolves a filter at the current sequence. Results are cached by filter and sequence."""
        condition = self.condition(filter)

        def select(after: int) -> NDArray[np.int64]:
            with self.pool.connection() as connection:
                return select_keys(connection, condition, after)

        return self._selections.resolve(cache_key(filter), self.sequence, select)

    def difference(self, number: int) -> Difference:
        """Compares the dense index of a generation with the database; commits wait meanwhile."""
        with self.generations.using(number) as generation:
            return difference(generation.index, generation.number, self.submit)

    def repair(self, *, lexical: bool, dense: Sequence[int], segments: Mapping[int, Sequence[Segment]]) -> list[str]:
        """Rebuilds what can be rebuilt from the database; see ``EmbeddedCollection.repair``."""
        done = []
        for number in dense:
            with suppress(GenerationNotFound), self.generations.using(number) as generation:
                forgotten = reconcile(generation.index, number, self.submit, generation.place.dimension)
                for uid in forgotten:
                    self._parameters.files.remove_tree(self._folder / SEGMENTS_FOLDER / uid)
                done.append(
                    f"the dense index was made to agree with the database; {len(forgotten)} segments were set aside"
                )
        if lexical:
            self.submit(Task(lambda transaction: transaction.rebuild_lexical(), lambda _: None)).result()
            done.append("the lexical index was rebuilt")
        for number in self.generations.shown.generations:
            with suppress(GenerationNotFound), self.generations.using(number) as generation:
                rebuild = generation.compaction.rebuild
                done += [f"segment {one.row.uid} was rebuilt" for one in segments.get(number, ()) if rebuild(one)]
                if count := generation.compaction.flush_now():
                    done.append(f"{count} segments were built from passages that were searched exactly")
        return done

    def close(self) -> None:
        """Ends maintenance, finishes submitted commits, checkpoints and closes. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.generations.close()
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
