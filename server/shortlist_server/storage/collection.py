"""One collection of the embedded store, open or closed.

An ``EmbeddedCollection`` exists as long as its folder. Its ``OpenCollection`` holds everything that costs memory,
descriptors and work; it is made on first use and closed when the collection is idle. Every method opens a closed
collection, and keeps it open until the method returns or its future is done. A ``lease`` keeps it open for longer, so
methods called meanwhile never wait for an opening. What is read often never opens it: ``name``, ``config``,
``generation``, ``sequence``, ``ef``, ``info``, ``stats`` and ``generations``. Any thread may call any method.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from shortlist_server.domain import (
    BuiltDocument,
    Change,
    CollectionConfig,
    CollectionInfo,
    Commit,
    DeadLetter,
    Filter,
    Generation,
    GenerationConfig,
    Include,
    LexicalCandidates,
    SearchDefaults,
    StoredDocument,
    StreamPosition,
)
from shortlist_server.storage.base import Lease, Selection
from shortlist_server.storage.compaction.reconcile import Difference
from shortlist_server.storage.compaction.recovery import Damage
from shortlist_server.storage.compaction.scheduler import stats_of
from shortlist_server.storage.generations.reader import EmbeddedGeneration
from shortlist_server.storage.generations.shown import Settings
from shortlist_server.storage.opening.lifecycle import Lifecycle
from shortlist_server.storage.opening.open_cache import OpenCollectionCache
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.reports import CollectionStats
from shortlist_server.storage.rows import dead_letters
from shortlist_server.storage.rows.documents import documents_by_id, read_page
from shortlist_server.storage.rows.lacking import read_lacking
from shortlist_server.storage.rows.reader import RowReader
from shortlist_server.storage.rows.settings import NOT_RAISED, RaisedEf
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.vectors import search as dense
from shortlist_server.storage.vectors.segments import Segment
from shortlist_server.storage.vectors.selection import KeySelection

T = TypeVar("T")


class EmbeddedCollection(RowReader):
    """A ``CollectionStore`` over SQLite and HNSW segments in one folder."""

    def __init__(self, name: str, folder: Path, parameters: Parameters, open_cache: OpenCollectionCache) -> None:
        """Nothing is opened yet."""
        self._name = name
        self._folder = folder
        self._lifecycle = Lifecycle(name, folder, parameters, open_cache)

    @property
    def is_open(self) -> bool:
        """Whether it is open now."""
        return self._lifecycle.opened is not None

    @property
    def problem(self) -> str:
        """Why the last attempt to open or inspect it failed; empty after a success, or before any attempt."""
        return self._lifecycle.problem

    @property
    def damage(self) -> tuple[Damage, ...]:
        """The damaged segments that its last opening dropped."""
        return self._lifecycle.damage

    @property
    def unused_since(self) -> float:
        """When it was opened or leased last, on the monotonic clock; 0 if it never was."""
        return self._lifecycle.unused_since

    def lease(self) -> Lease[EmbeddedCollection]:
        """Keeps the collection open until the lease is released; opens it first if it is closed."""
        self._lifecycle.begin()
        return self._leased()

    def try_lease(self) -> Lease[EmbeddedCollection] | None:
        """Leases the collection if it is open already, else returns None. Never blocks."""
        return None if self._lifecycle.try_begin() is None else self._leased()

    def _leased(self) -> Lease[EmbeddedCollection]:
        self._lifecycle.touch()

        def release() -> None:
            self._lifecycle.touch()
            self._lifecycle.end()

        return Lease(self, release)

    def while_closed(self, work: Callable[[], T]) -> T:
        """Does work that needs the files for itself; meanwhile the collection cannot be opened.

        Raises:
            Unavailable: the collection is open.
        """
        return self._lifecycle.while_closed(work)

    def close(self) -> None:
        """Closes it for good: from now on its methods raise ``Unavailable``. Idempotent."""
        self._lifecycle.close()

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._name

    @property
    def config(self) -> CollectionConfig:
        """The settings with which it was made, the search defaults as last updated, and the serving generation's."""
        return self._settings().config

    @property
    def generation(self) -> int:
        """Number of the serving generation."""
        opened = self._lifecycle.opened
        return self._lifecycle.facts().info.generation if opened is None else opened.serving.number

    @property
    def sequence(self) -> int:
        """Sequence of the last commit."""
        opened = self._lifecycle.opened
        return self._lifecycle.facts().info.sequence if opened is None else opened.sequence

    def ef(self, *, filtered: bool) -> int:
        """The ``ef`` of dense searches that name none; see ``CollectionStore.ef``."""
        settings = self._settings()
        return max(settings.config.search_defaults.ef or dense.DEFAULT_EF, settings.raised_ef[filtered])

    def info(self) -> CollectionInfo:
        """Counts and sizes now, from memory and a few ``stat`` calls; for a closed collection, as of its closing."""
        return self._lifecycle.facts().info

    def stats(self) -> CollectionStats:
        """The state of maintenance, for an operator; for a closed collection, without its segments."""
        opened = self._lifecycle.opened
        snapshot = None if opened is None else opened.serving.index.snapshot
        return stats_of(list(self._lifecycle.tallies.values()), self.damage, snapshot)

    def _settings(self) -> Settings:
        opened = self._lifecycle.opened
        return self._lifecycle.facts().settings if opened is None else opened.settings

    def flush_now(self) -> int:
        """Flushes all growing segments and waits for the builds; returns the number of segments made.

        Raises:
            BuildFailed: a build failed; the collection is as it was before that build.
        """
        with self._lifecycle.use() as opened:
            return sum(one.compaction.flush_now() for one in opened.generations.shown.generations.values())

    def merge_now(self) -> int:
        """Merges neighbouring segments up to the largest size and waits for the builds; returns the number made.

        Raises:
            BuildFailed: a build failed; the segments it was to replace stay.
        """
        with self._lifecycle.use() as opened:
            return sum(one.compaction.merge_now() for one in opened.generations.shown.generations.values())

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    @property
    def uid(self) -> str:
        """Its identity, which its segments carry."""
        return self._settings().uid

    @property
    def snapshot(self) -> dense.Snapshot:
        """What searches of the serving generation see now."""
        with self._lifecycle.use() as opened:
            return opened.serving.index.snapshot

    def snapshots(self) -> dict[int, dense.Snapshot]:
        """What searches see now of each generation that can be read, by number."""
        with self._lifecycle.use() as opened:
            return {number: one.index.snapshot for number, one in opened.generations.shown.generations.items()}

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A reading connection for a ``with`` block."""
        with self._lifecycle.use() as opened, opened.pool.connection() as connection:
            yield connection

    def submit(self, task: Task[T]) -> Future[T]:
        """Queues a task for the writer thread."""
        return self._lifecycle.until_done(lambda opened: opened.submit(task))

    def run(self, task: Task[T]) -> T:
        """Runs a task on the writer thread and waits for it."""
        return self.submit(task).result()

    def difference(self, generation: int | None = None) -> Difference:
        """Compares the dense index of a generation with the database; commits wait meanwhile."""
        with self._lifecycle.use() as opened:
            return opened.difference(opened.serving.number if generation is None else generation)

    def repair(self, *, lexical: bool, dense: Sequence[int], segments: Mapping[int, Sequence[Segment]]) -> list[str]:
        """Rebuilds the lexical index, the named segments and missing segments from the database.

        Searches go on throughout.

        Args:
            dense: the generations whose dense index is first made to agree with the database.
            segments: the segments to rebuild, by generation.

        Returns:
            What was done, one line for each repair.
        """
        with self._lifecycle.use() as opened:
            return opened.repair(lexical=lexical, dense=dense, segments=segments)

    def commit(
        self,
        changes: Sequence[Change],
        position: StreamPosition | None = None,
        failures: Sequence[DeadLetter] = (),
    ) -> Future[Commit]:
        """Applies changes in order, all or none; see ``CollectionStore.commit``."""
        changes = tuple(changes)
        return self._lifecycle.until_done(lambda opened: opened.commit(changes, position, failures))

    def delete_matching(self, filter: Filter) -> Future[int]:
        """Deletes the documents that pass now, in several transactions; other writes run between them."""
        return self._lifecycle.until_done(lambda opened: opened.deletions.delete(opened.select(filter).keys.tolist()))

    def update_search_defaults(self, defaults: SearchDefaults, *, expected: SearchDefaults | None = None) -> bool:
        """Replaces the search defaults durably, where they are as expected; see the protocol."""
        as_expected = True

        def change(config: CollectionConfig, raised: RaisedEf, serving: int) -> tuple[CollectionConfig, RaisedEf]:
            nonlocal as_expected
            as_expected = expected in (None, config.search_defaults)
            if not as_expected:
                return config, raised
            if _recall_preset(defaults) != _recall_preset(config.search_defaults):
                raised = NOT_RAISED
            return replace(config, search_defaults=defaults), raised

        self._lifecycle.until_done(lambda opened: opened.generations.save_settings(change)).result()
        return as_expected

    def raise_ef(self, ef: int, *, filtered: bool, under: SearchDefaults, generation: int) -> None:
        """Raises the ``ef`` of searches that name none, durably; see ``CollectionStore.raise_ef``."""

        def change(config: CollectionConfig, raised: RaisedEf, serving: int) -> tuple[CollectionConfig, RaisedEf]:
            if serving == generation and _recall_preset(config.search_defaults) == _recall_preset(under):
                raised = (raised[0], ef) if filtered else (ef, raised[1])
            return config, raised

        self._lifecycle.until_done(lambda opened: opened.generations.save_settings(change)).result()

    def read_generation(self, number: int | None = None) -> Lease[EmbeddedGeneration]:
        """Reads a generation, by default the serving one; see ``CollectionStore.read_generation``."""
        opened = self._lifecycle.begin()
        try:
            reader = opened.generations.read(number, opened.pool)
        except BaseException:
            self._lifecycle.end()
            raise

        def release() -> None:
            reader.release()
            self._lifecycle.end()

        return Lease(reader, release)

    def generations(self) -> tuple[Generation, ...]:
        """All generations, by number; see ``CollectionStore.generations``."""
        opened = self._lifecycle.opened
        return self._lifecycle.facts().generations if opened is None else opened.generations.describe()

    def create_generation(self, config: GenerationConfig) -> Future[Generation]:
        """Makes an empty generation to build; see ``CollectionStore.create_generation``."""
        return self._lifecycle.until_done(lambda opened: opened.generations.create(config))

    def documents_to_build(
        self, number: int, limit: int, max_bytes: int, *, after: int | None = None
    ) -> tuple[list[StoredDocument], int]:
        """The next documents that a generation lacks; see ``CollectionStore.documents_to_build``."""
        with (
            self._lifecycle.use() as opened,
            opened.generations.using(number) as lacking,
            opened.generations.using() as serving,
            opened.pool.connection() as connection,
        ):
            if after is None:
                row = opened.generations.shown.counters.find(number)
                after = 0 if row is None else row.cursor
            return read_lacking(connection, lacking.tables, serving.tables, after, limit, max_bytes)

    def build(
        self,
        number: int,
        built: Sequence[BuiltDocument],
        cursor: int,
        *,
        tokens: int,
        failures: Sequence[DeadLetter] = (),
    ) -> Future[Generation]:
        """Adds passages to a generation and moves its cursor; see ``CollectionStore.build``."""
        built = tuple(built)
        return self._lifecycle.until_done(
            lambda opened: opened.generations.build(number, built, cursor, tokens=tokens, failures=failures)
        )

    def pause_build(self, number: int, reason: str, *, by_user: bool) -> Future[Generation]:
        """Records why a build is paused; see ``CollectionStore.pause_build``."""
        return self._lifecycle.until_done(lambda opened: opened.generations.pause(number, reason, by_user=by_user))

    def switch_generation(self, number: int) -> Future[Generation]:
        """Lets a complete generation serve; see ``CollectionStore.switch_generation``."""
        return self._lifecycle.until_done(lambda opened: opened.generations.switch(number))

    def drop_generation(self, number: int) -> Future[None]:
        """Drops a generation that does not serve; see ``CollectionStore.drop_generation``."""
        return self._lifecycle.until_done(lambda opened: opened.generations.drop(number))

    def delete_dead_letters(self, numbers: Sequence[int]) -> Future[int]:
        """Removes failures by number; the future gets how many existed."""
        numbers = tuple(numbers)
        return self.submit(
            Task(lambda transaction: dead_letters.forget(transaction.connection, numbers), lambda forgotten: forgotten)
        )

    def page(
        self, filter: Filter | None, after: int, limit: int, include: Include
    ) -> tuple[Sequence[StoredDocument], int | None]:
        """A page of the documents that pass, by sequence, and where the next one starts."""
        with (
            self._lifecycle.use() as opened,
            opened.generations.using() as serving,
            opened.pool.connection() as connection,
        ):
            condition = None if filter is None else opened.condition(filter)
            return read_page(connection, serving.tables, condition, after, limit, include)

    def documents_by_id(self, ids: Sequence[str], include: Include) -> dict[str, StoredDocument]:
        """The documents with these ids that exist, by id, with the parts asked for."""
        with (
            self._lifecycle.use() as opened,
            opened.generations.using() as serving,
            opened.pool.connection() as connection,
        ):
            return documents_by_id(connection, serving.tables, ids, include)

    def count(self, filter: Filter | None) -> int:
        """Number of live documents that pass."""
        with self._lifecycle.use() as opened:
            return opened.generations.shown.counters.documents if filter is None else opened.select(filter).matches

    def select(self, filter: Filter) -> Selection:
        """Resolves a filter at the current sequence. Results are cached by filter and sequence."""
        with self._lifecycle.use() as opened:
            return opened.select(filter)

    def lexical(self, text: str, documents: int, selection: Selection | None = None) -> LexicalCandidates:
        """The documents that share words with ``text``, best by BM25 first."""
        assert selection is None or isinstance(selection, KeySelection)
        with self._lifecycle.use() as opened:
            return opened.lexicon.search(text, documents, selection)


def _recall_preset(defaults: SearchDefaults) -> tuple[int | None, float | None]:
    """The settings against which a raised ``ef`` was measured; when they change, raising starts over."""
    return defaults.ef, defaults.recall_target
