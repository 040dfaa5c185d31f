"""What callers see of a collection: its settings, its counters, and the generations that they may use. Plain values."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from shortlist_server.domain import BuildProgress, CollectionConfig, Generation
from shortlist_server.errors import DataCorrupted, GenerationNotFound, GenerationNotReady
from shortlist_server.storage.generations.generation import OpenGeneration
from shortlist_server.storage.rows import schema, settings
from shortlist_server.storage.rows.settings import RaisedEf
from shortlist_server.storage.values import Counters, GenerationRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a collection, with all changes since it was made.

    Attributes:
        uid: the collection's identity, which its segments carry.
        config: with what belongs to the serving generation.
        raised_ef: of the serving generation.
    """

    uid: str
    create_time_seconds: float
    config: CollectionConfig
    raised_ef: RaisedEf

    @classmethod
    def read(cls, connection: sqlite3.Connection, name: str) -> Settings:
        """Reads the settings from a collection's database.

        Raises:
            DataCorrupted: the settings cannot be read.
        """
        stored = schema.read_settings(connection)
        try:
            return cls(
                uid=stored["uid"],
                create_time_seconds=float(stored["create_time"]),
                config=settings.load(stored["config"]),
                raised_ef=settings.load_raised_ef(stored.get("raised_ef")),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise DataCorrupted(
                f"the settings of collection '{name}' cannot be read ({error}); restore a backup"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """One state of an open collection. The writer thread replaces it as a whole, so no reader sees half of a switch.

    Attributes:
        serving: the generation that serves.
        generations: all that can be read, by number.
    """

    settings: Settings
    counters: Counters
    serving: OpenGeneration
    generations: Mapping[int, OpenGeneration]

    def find(self, number: int | None) -> OpenGeneration:
        """A generation that can be read: the serving one if ``number`` is None.

        Raises:
            GenerationNotFound: there is none of that number, or it is being dropped.
            GenerationNotReady: it cannot be used.
        """
        if number is None:
            return self.serving
        found = self.generations.get(number)
        if found is not None:
            return found
        row = self.counters.find(number)
        if row is not None and row.problem:
            raise GenerationNotReady(
                f"generation {number} cannot be used: {row.problem}", metadata={"generation": str(number)}
            )
        raise GenerationNotFound(
            f"there is no generation {number}: it was never made, or is being dropped",
            metadata={"generation": str(number)},
        )

    def describe(self, row: GenerationRow, *, look: bool = True) -> Generation:
        """A generation for callers, with its size now; without ``look``, no file is looked at."""
        opened = self.generations.get(row.number)
        return describe(row, self.counters, 0 if opened is None else opened.disk_bytes(look=look))


def describe(row: GenerationRow, counters: Counters, disk_bytes: int) -> Generation:
    """A generation for callers."""
    return Generation(
        number=row.number,
        state=row.state,
        config=row.config,
        create_time_seconds=row.create_time_seconds,
        serve_time_seconds=row.serve_time_seconds,
        passage_count=row.passages,
        disk_bytes=disk_bytes,
        problem=row.problem,
        progress=BuildProgress(
            done_documents=row.documents,
            total_documents=counters.documents,
            done_tokens=row.done_tokens,
            failed_documents=row.failed,
            paused=row.paused,
            paused_by_user=row.paused_by_user,
            complete=counters.is_complete(row),
        ),
    )
