"""The settings, counts and sizes of a collection, without opening it.

A collection leaves its facts behind when it is closed. For one that was never open, ``read_facts`` takes them from the
database: that takes a millisecond, and nothing stays open. Any thread may call.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.domain import CollectionConfig, CollectionInfo
from shortlist_server.errors import DataCorrupted
from shortlist_server.storage.compaction.recovery import segment_rows
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.layout import DATA_FILES, DATABASE_FILE, MANIFEST_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.opening.identity import check_files
from shortlist_server.storage.rows import schema, settings
from shortlist_server.storage.rows.settings import RaisedEf


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a collection, with all changes since it was made.

    Attributes:
        uid: the collection's identity, which its segments carry.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a collection is and holds, at one moment."""

    info: CollectionInfo
    settings: Settings


def read_facts(folder: Path, name: str) -> Facts:
    """Reads the facts of a closed collection.

    Here a segment's count includes the passages that died since it was built: only an open collection can tell them
    apart.

    Raises:
        CommitsLost: acknowledged commits are missing.
        DataCorrupted: the database is missing or another collection's, or the small part read here is damaged.
        NewerDataFormat: a newer release wrote it.
    """
    with translated(name), contextlib.ExitStack() as stack:
        check_files(folder, name)
        connection = stack.enter_context(contextlib.closing(schema.open_untouched(folder / DATABASE_FILE, name)))
        stored = Settings.read(connection, name)
        sequence, documents, passages = connection.execute(
            "SELECT sequence, documents, passages FROM counters WHERE id = 1"
        ).fetchone()
        rows = segment_rows(connection)
    info = CollectionInfo(
        name=name,
        config=stored.config,
        create_time_seconds=stored.create_time_seconds,
        sequence=sequence,
        document_count=documents,
        passage_count=passages,
        segment_passage_count=min(passages, sum(row.passages for row in rows)),
        segment_count=len(rows),
        disk_bytes=disk_bytes(folder, [row.uid for row in rows]),
    )
    return Facts(info=info, settings=stored)


def needs_recovery(folder: Path) -> bool:
    """Whether a crash left commits in the write-ahead log; then only opening the collection shows what it holds."""
    try:
        return (folder / (DATABASE_FILE + "-wal")).stat().st_size > 0
    except OSError:
        return False


def disk_bytes(folder: Path, segments: Sequence[str]) -> int:
    """Size of a collection's files in bytes, with those of the published ``segments``."""
    total = 0
    paths = [folder / (DATABASE_FILE + suffix) for suffix in ("", "-wal", "-shm")]
    for uid in segments:
        paths += [folder / SEGMENTS_FOLDER / uid / name for name in (*DATA_FILES, MANIFEST_FILE)]
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            # Meanwhile a segment may have been replaced, or the log removed.
            continue
    return total
