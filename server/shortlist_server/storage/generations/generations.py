"""The generations of an open collection.

``Generations`` opens them, and makes, builds, switches and drops them by tasks of the writer thread. The writer thread
changes the database first; then, in the same order, the dense indexes and ``shown``. Searches read ``shown`` once and
take no lock. Any thread may call.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from shortlist_server.domain import (
    BuiltDocument,
    CollectionConfig,
    DeadLetter,
    Generation,
    GenerationConfig,
    GenerationState,
)
from shortlist_server.errors import DataCorrupted, ShortlistError, Unavailable
from shortlist_server.storage.compaction.recovery import Damage, Place, remove_leftovers
from shortlist_server.storage.compaction.scheduler import CompactionTally
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.generations.dropping import Dropping
from shortlist_server.storage.generations.generation import OpenGeneration
from shortlist_server.storage.generations.marker import ReindexMarker
from shortlist_server.storage.generations.reader import EmbeddedGeneration
from shortlist_server.storage.generations.shown import Settings, Shown
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.rows import generation_changes, generations
from shortlist_server.storage.rows.reader import ReaderPool
from shortlist_server.storage.rows.settings import NOT_RAISED, RaisedEf
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.values import Counters, Effect, GenerationRow

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_SECONDS = 0.05

Tallies = MutableMapping[int, CompactionTally]
"""Counts of compaction by generation."""


class Generations:
    """The open generations of one collection.

    Attributes:
        shown: what callers see now; only the writer thread replaces it.
        marker: the file that says, without opening the collection, that a generation needs a build.
        dropping: the drops under way.
    """

    shown: Shown

    def __init__(
        self,
        name: str,
        folder: Path,
        submit: Callable[[Task[Any]], Future[Any]],
        parameters: Parameters,
        tallies: Tallies,
    ) -> None:
        """Opens nothing yet; see ``recover``."""
        self._name = name
        self._folder = folder
        self._submit = submit
        self._parameters = parameters
        self._tallies = tallies
        self._lock = threading.Lock()
        self._waiting: set[Callable[[], None]] = set()
        # Their readers and their folders go once they are dropped.
        self._unusable: dict[int, OpenGeneration] = {}
        self.marker = ReindexMarker(folder, parameters.files)
        self.dropping = Dropping(name, submit, parameters, forgotten=self._show)

    def recover(self, connection: sqlite3.Connection, transaction: WriteTransaction, settings: Settings) -> None:
        """Opens all generations that can be used. Runs before the writer thread starts.

        Raises:
            DataCorrupted: the serving generation is damaged. Another one that is damaged is marked, and not opened.
        """
        remove_leftovers(connection, self._folder, self._parameters.files)
        opened: dict[int, OpenGeneration] = {}
        for row in tuple(transaction.counters.live):
            try:
                with translated(self._name):
                    opened[row.number] = self._recovered(connection, transaction.counters, row, settings.uid)
            except ShortlistError as error:
                # The plain class is an error of SQLite such as a table that is missing.
                damaged = isinstance(error, DataCorrupted) or type(error) is ShortlistError
                if row.state is GenerationState.SERVING or not damaged:
                    raise
                _mark_unusable(connection, transaction, row.number, error.message)
                remove_leftovers(connection, self._folder, self._parameters.files)
        counters = transaction.counters
        self.shown = Shown(
            settings=settings,
            counters=counters,
            serving=opened[counters.serving.number],
            generations=opened,
        )
        self.marker.announce(counters)
        self.marker.settle()

    def _recovered(
        self, connection: sqlite3.Connection, counters: Counters, row: GenerationRow, uid: str
    ) -> OpenGeneration:
        tally = self._tallies.setdefault(row.number, CompactionTally())
        return OpenGeneration.recovered(
            connection, row, self._place(row, uid), counters.totals(row), self._submit, self._parameters, tally
        )

    def _place(self, row: GenerationRow, uid: str) -> Place:
        return Place(
            folder=self._folder, name=self._name, uid=uid, generation=row.number, dimension=row.config.dimension
        )

    def start(self) -> None:
        """Resumes the work that the last closing interrupted."""
        for generation in self.shown.generations.values():
            generation.compaction.start()
        self._show(self.shown.counters)

    def close(self) -> None:
        """Ends builds of segments and drops, and lets commits go on that wait for room. Idempotent."""
        self.dropping.close()
        for generation in (*self.shown.generations.values(), *self._unusable.values()):
            generation.compaction.close()
        # Builds that wait for room find it now.
        for look in tuple(self._waiting):
            look()

    @property
    def damage(self) -> tuple[Damage, ...]:
        """The damaged segments that the opening dropped."""
        return tuple(damage for generation in self.shown.generations.values() for damage in generation.damage)

    @property
    def busy(self) -> bool:
        """Whether a segment is being built or a generation dropped."""
        return self.dropping.busy or any(one.compaction.busy for one in self.shown.generations.values())

    def has_room(self) -> bool:
        """Whether the growing segment of the serving generation may grow; a build waits for its own."""
        return self.shown.serving.compaction.has_room()

    def waited(self, seconds: float) -> None:
        """Adds the time that a commit waited for room."""
        self.shown.serving.compaction.waited(seconds)

    @contextmanager
    def using(self, number: int | None = None) -> Iterator[OpenGeneration]:
        """A generation, by default the serving one, whose rows stay for the ``with`` block.

        Raises:
            GenerationNotFound, GenerationNotReady: it cannot be read.
        """
        generation = self._begin(number)[1]
        try:
            yield generation
        finally:
            generation.end()

    def read(self, number: int | None, pool: ReaderPool) -> EmbeddedGeneration:
        """Begins to read a generation, by default the serving one; the caller releases the reader. Never blocks.

        Raises:
            GenerationNotFound, GenerationNotReady: it cannot be read.
        """
        shown, generation = self._begin(number)
        serves = generation is shown.serving
        row = shown.counters.find(generation.number)
        return EmbeddedGeneration(
            generation,
            shown.settings.config if serves else generations.with_generation(shown.settings.config, generation.config),
            shown.settings.raised_ef if serves else NOT_RAISED,
            pool,
            self._parameters.pool,
            complete=row is not None and shown.counters.is_complete(row),
        )

    def _begin(self, number: int | None) -> tuple[Shown, OpenGeneration]:
        while True:
            shown = self.shown
            generation = shown.find(number)
            if generation.begin():
                return shown, generation
            # It was dropped since ``shown`` was read.

    def describe(self, *, look: bool = True) -> tuple[Generation, ...]:
        """All generations for callers, by number; without ``look``, no file is looked at."""
        shown = self.shown
        return tuple(shown.describe(row, look=look) for row in shown.counters.generations)

    def publish(self, effect: Effect) -> None:
        """Shows a committed change of documents. Writer thread only."""
        self._show(effect.counters, effect)

    def create(self, config: GenerationConfig) -> Future[Generation]:
        """Makes an empty generation; see ``CollectionStore.create_generation``."""

        def apply(transaction: WriteTransaction) -> tuple[GenerationRow, Counters]:
            row = generation_changes.create(transaction, config)
            self.marker.announce(transaction.counters)
            return row, transaction.counters

        def publish(made: tuple[GenerationRow, Counters]) -> Generation:
            self._parameters.crash_point("generation:created")
            row, counters = made
            tally = self._tallies.setdefault(row.number, CompactionTally())
            place = self._place(row, self.shown.settings.uid)
            opened = OpenGeneration.empty(row, place, counters.totals(row), self._submit, self._parameters, tally)
            self.shown = replace(
                self.shown, counters=counters, generations={**self.shown.generations, row.number: opened}
            )
            return self.shown.describe(row)

        return self._submit(Task(apply, publish))

    def build(
        self,
        number: int,
        built: Sequence[BuiltDocument],
        cursor: int,
        *,
        tokens: int,
        failures: Sequence[DeadLetter],
    ) -> Future[Generation]:
        """Adds passages to a generation; see ``CollectionStore.build``."""

        def apply(transaction: WriteTransaction) -> Effect:
            effect = generation_changes.build(transaction, number, built, cursor, tokens=tokens, failures=failures)
            self.marker.announce(transaction.counters)
            return effect

        def publish(effect: Effect) -> Generation:
            self._parameters.crash_point("generation:built")
            self._show(effect.counters, effect)
            return self._described(number)

        def start() -> Future[Generation]:
            return self._submit(Task(apply, publish, weight=len(built), grows=bool(built)))

        generation = self.shown.generations.get(number)
        return start() if generation is None else self._when_room(generation, start)

    def _when_room(self, generation: OpenGeneration, start: Callable[[], Future[T]]) -> Future[T]:
        """Starts a build once the growing segment of its generation has room; commits do not wait with it."""
        if generation.compaction.has_room():
            return start()
        done: Future[T] = Future()

        def look() -> None:
            with self._lock:
                if look not in self._waiting:
                    return
                if not generation.compaction.has_room():
                    self._parameters.clock.after(_LOOK_SECONDS, look)
                    return
                self._waiting.discard(look)
            try:
                start().add_done_callback(lambda started: _pass_on(started, done))
            except Unavailable as error:
                done.set_exception(error)

        self._waiting.add(look)
        look()
        return done

    def pause(self, number: int, reason: str, *, by_user: bool) -> Future[Generation]:
        """Records why a build is paused; see ``CollectionStore.pause_build``."""

        def apply(transaction: WriteTransaction) -> Counters:
            generation_changes.pause(transaction, number, reason, by_user=by_user)
            return transaction.counters

        def publish(counters: Counters) -> Generation:
            self._show(counters)
            return self._described(number)

        return self._submit(Task(apply, publish))

    def switch(self, number: int) -> Future[Generation]:
        """Lets a generation serve; see ``CollectionStore.switch_generation``."""

        def apply(transaction: WriteTransaction) -> tuple[Counters, CollectionConfig, RaisedEf]:
            generation_changes.switch(transaction, number)
            self._parameters.crash_point("switch:before")
            self.marker.announce(transaction.counters)
            return transaction.counters, transaction.config(), transaction.raised_ef()

        def publish(switched: tuple[Counters, CollectionConfig, RaisedEf]) -> Generation:
            self._parameters.crash_point("switch:committed")
            counters, config, raised_ef = switched
            self._show(counters, settings=replace(self.shown.settings, config=config, raised_ef=raised_ef))
            return self._described(number)

        return self._submit(Task(apply, publish))

    def drop(self, number: int) -> Future[None]:
        """Drops a generation; see ``CollectionStore.drop_generation``."""

        def apply(transaction: WriteTransaction) -> Counters:
            generation_changes.drop(transaction, number)
            self.marker.announce(transaction.counters)
            return transaction.counters

        def publish(counters: Counters) -> None:
            self._parameters.crash_point("drop:marked")
            self._show(counters)

        return self._submit(Task(apply, publish, frees=True))

    def save_settings(
        self, change: Callable[[CollectionConfig, RaisedEf, int], tuple[CollectionConfig, RaisedEf]]
    ) -> Future[None]:
        """Changes settings durably; readers see the change after the commit.

        ``change`` gets the settings and the number of the serving generation.
        """

        def apply(transaction: WriteTransaction) -> tuple[CollectionConfig, RaisedEf]:
            before = transaction.config(), transaction.raised_ef()
            config, raised = change(*before, transaction.counters.serving.number)
            if config != before[0]:
                transaction.save_config(config)
            if raised != before[1]:
                transaction.save_raised_ef(raised)
            return config, raised

        def publish(saved: tuple[CollectionConfig, RaisedEf]) -> None:
            settings = replace(self.shown.settings, config=saved[0], raised_ef=saved[1])
            self.shown = replace(self.shown, settings=settings)

        return self._submit(Task(apply, publish))

    def _described(self, number: int) -> Generation:
        row = self.shown.counters.find(number)
        assert row is not None
        return self.shown.describe(row)

    def _show(self, counters: Counters, effect: Effect | None = None, *, settings: Settings | None = None) -> None:
        """Shows committed counters, and with them another serving generation or one less. Writer thread only."""
        kept = {}
        gone: dict[int, OpenGeneration] = {}
        for number, generation in self.shown.generations.items():
            row = counters.find(number)
            assert row is not None
            if not row.is_live:
                generation.compaction.stop()
                self._tallies[number].forgive()
                gone[number] = generation
                continue
            kept[number] = generation
            if effect is not None:
                generation.publish(effect.passages.get(number), counters.totals(row))
        self.shown = Shown(
            settings=settings or self.shown.settings,
            counters=counters,
            serving=kept[counters.serving.number],
            generations=kept,
        )
        for row in counters.generations:
            if row.state is GenerationState.DROPPING:
                opened = gone.pop(row.number, None) or self._unusable.pop(row.number, None)
                self.dropping.begin(row.number, opened)
        self._unusable |= gone
        self.marker.settle()


def _pass_on(started: Future[T], done: Future[T]) -> None:
    error = started.exception()
    if error is None:
        done.set_result(started.result())
    else:
        done.set_exception(error)


def _mark_unusable(connection: sqlite3.Connection, transaction: WriteTransaction, number: int, problem: str) -> None:
    before = transaction.counters
    connection.execute("BEGIN IMMEDIATE")
    transaction.mark_unusable(number, problem)
    generations.save(connection, transaction.counters.generations, before.generations)
    connection.execute("COMMIT")
