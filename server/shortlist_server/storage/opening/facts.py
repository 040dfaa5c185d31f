"""The settings, counts and sizes of a collection, without opening it.

A collection leaves its facts behind when it is closed. For one that was never open, ``read_facts`` takes them from the
database: that takes a millisecond, and nothing stays open. Any thread may call.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shortlist_server.domain import CollectionInfo, Generation
from shortlist_server.storage.compaction.recovery import segment_rows
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.generations.generation import rows_bytes
from shortlist_server.storage.generations.shown import Settings, describe
from shortlist_server.storage.layout import DATA_FILES, DATABASE_FILE, MANIFEST_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.opening.identity import check_files
from shortlist_server.storage.rows import generations, schema
from shortlist_server.storage.rows.counters import read_counters
from shortlist_server.storage.values import Counters


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a collection is and holds, at one moment."""

    info: CollectionInfo
    settings: Settings
    generations: tuple[Generation, ...]


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
        counters = _counters(connection, stored)
        rows = segment_rows(connection)
    serving = counters.serving
    sizes = {row.uid: _sizes(folder, [row.uid]) for row in rows}
    info = CollectionInfo(
        name=name,
        config=stored.config,
        create_time_seconds=stored.create_time_seconds,
        sequence=counters.sequence,
        document_count=counters.documents,
        passage_count=serving.passages,
        segment_passage_count=min(
            serving.passages, sum(row.passages for row in rows if row.generation == serving.number)
        ),
        segment_count=sum(row.generation == serving.number for row in rows),
        disk_bytes=disk_bytes(folder, []) + sum(sizes.values()),
        generation=serving.number,
    )
    described = tuple(
        describe(
            row,
            counters,
            rows_bytes(row.passages, row.config.dimension)
            + sum(sizes[one.uid] for one in rows if one.generation == row.number),
        )
        for row in counters.generations
    )
    return Facts(info=info, settings=stored, generations=described)


def _counters(connection: sqlite3.Connection, stored: Settings) -> Counters:
    """The counters of a database of any format."""
    (format,) = connection.execute("PRAGMA user_version").fetchone()
    if format >= schema.FIRST_FORMAT_WITH_GENERATIONS:
        return read_counters(connection)
    sequence, next_key, next_passage_id, documents, passages = connection.execute(
        "SELECT sequence, next_key, next_label, documents, passages FROM counters"
    ).fetchone()
    first = replace(
        generations.first(stored.config, stored.create_time_seconds),
        cursor=next_key - 1,
        documents=documents,
        passages=passages,
    )
    return Counters(
        sequence=sequence,
        next_key=next_key,
        next_passage_id=next_passage_id,
        documents=documents,
        commits=0,
        ids_checksum=0,
        last_generation=first.number,
        generations=(first,),
    )


def needs_recovery(folder: Path) -> bool:
    """Whether a crash left commits in the write-ahead log; then only opening the collection shows what it holds."""
    try:
        return (folder / (DATABASE_FILE + "-wal")).stat().st_size > 0
    except OSError:
        return False


def disk_bytes(folder: Path, segments: Sequence[str]) -> int:
    """Size of a collection's files in bytes, with those of the published ``segments``."""
    return _total(folder / (DATABASE_FILE + suffix) for suffix in ("", "-wal", "-shm")) + _sizes(folder, segments)


def _sizes(folder: Path, segments: Sequence[str]) -> int:
    names = (*DATA_FILES, MANIFEST_FILE)
    return _total(folder / SEGMENTS_FOLDER / uid / name for uid in segments for name in names)


def _total(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            # Meanwhile a segment may have been replaced, or the log removed.
            continue
    return total
