"""Backups of collections, and their way back.

A backup is itself a data folder: collections in the layout of the store and a ``backup.json`` that names them, so it
can be verified, and even served, as it is. It is made while the collection is in use: SQLite's backup API copies the
database as of one commit; segments never change and are copied as files. A segment that a merge removed meanwhile is
left out, as is one whose copy fails its checksum: a restored collection rebuilds it. Every backup is checked when it is
made, and a backup or a restored collection appears under its name only when it is complete and synced. Any thread may
call.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shortlist_server.errors import CollectionNotFound, DataCorrupted, InvalidArgument
from shortlist_server.storage import schema
from shortlist_server.storage.collection import DATABASE_FILE, SEGMENTS_FOLDER, EmbeddedCollection
from shortlist_server.storage.files import CrashPoint, Files
from shortlist_server.storage.manifest import SegmentDamaged, check_folder
from shortlist_server.storage.recovery import segment_rows

BACKUP_FILE = "backup.json"
BACKUP_FORMAT = 1

_PAGES_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a backup or restore has come.

    Attributes:
        collection: the one it is at.
        done_bytes, total_bytes: of that collection; the total may still grow.
    """

    collection: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """A collection in a backup: what it held as of ``sequence``."""

    name: str
    sequence: int
    documents: int
    passages: int
    segments: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A complete backup in ``folder``."""

    folder: Path
    create_time_seconds: float
    collections: Sequence[BackedUp]


def write_backup(
    collections: Sequence[EmbeddedCollection],
    target: Path,
    files: Files,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
    crash_point: CrashPoint,
) -> Backup:
    """Backs up collections into a new folder, each as of one commit.

    Raises:
        InvalidArgument: ``target`` exists, or its parent does not.
        DataCorrupted: a copied database fails its check: the collection itself is damaged.
        OutOfSpace: the target's disk is full; nothing is left there.
    """
    if target.exists() or not target.parent.is_dir():
        raise InvalidArgument(f"{target} must be a new folder in an existing one", field="folder")
    temporary = target.parent / f".{target.name}.partial"
    files.remove_tree(temporary)
    try:
        files.make_folder(temporary)
        folder = temporary / "collections"
        files.make_folder(folder)
        done = []
        for collection in collections:
            done.append(_copy_collection(collection, folder / collection.name, files, progress))
            crash_point("backup:collection")
        made = Backup(folder=target, create_time_seconds=time.time(), collections=tuple(done))
        files.write(temporary / BACKUP_FILE, _dump(made))
        files.sync(temporary / BACKUP_FILE)
        files.sync_folder(folder)
        files.sync_folder(temporary)
        crash_point("backup:written")
        files.rename(temporary, target)
        files.sync_folder(target.parent)
    except BaseException:
        files.remove_tree(temporary)
        raise
    return made


def read_backup(folder: Path) -> Backup:
    """What a backup folder says it holds.

    Raises:
        InvalidArgument: it is no backup, or one of a newer release.
    """
    try:
        values = json.loads((folder / BACKUP_FILE).read_bytes())
        if values["format"] > BACKUP_FORMAT:
            raise InvalidArgument(f"{folder} was made by a newer release; restore it with that", field="folder")
        collections = tuple(BackedUp(**entry) for entry in values["collections"])
        return Backup(folder=folder, create_time_seconds=values["create_time_seconds"], collections=collections)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"{folder} is not a complete backup ({error})", field="folder") from error


def copy_back(
    backup: Backup,
    name: str,
    new_name: str,
    target: Path,
    files: Files,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Copies a collection of a backup into a new folder ``target``, complete and synced.

    Raises:
        CollectionNotFound: the backup has no collection of that name.
        DataCorrupted: the backup's database is damaged or missing.
    """
    if name not in {entry.name for entry in backup.collections}:
        raise CollectionNotFound(f"the backup has no collection {name!r}", metadata={"collection": name})
    source = backup.folder / "collections" / name
    if not (source / DATABASE_FILE).is_file():
        raise DataCorrupted(f"the backup's database of collection {name} is missing; use another backup")
    total = _bytes(source)
    done = 0
    files.make_folder(target)
    files.make_folder(target / SEGMENTS_FOLDER)
    files.copy(source / DATABASE_FILE, target / DATABASE_FILE)
    _check_database(target / DATABASE_FILE, name)
    with contextlib.closing(schema.open_writer(target / DATABASE_FILE, new_name)) as connection:
        connection.execute("UPDATE settings SET value = ? WHERE name = 'name'", (new_name,))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    done += (target / DATABASE_FILE).stat().st_size
    progress(Progress(collection=new_name, done_bytes=done, total_bytes=total))
    for folder in sorted((source / SEGMENTS_FOLDER).iterdir()) if (source / SEGMENTS_FOLDER).is_dir() else ():
        done += _copy_folder(folder, target / SEGMENTS_FOLDER / folder.name, files)
        progress(Progress(collection=new_name, done_bytes=done, total_bytes=total))
    files.sync(target / DATABASE_FILE)
    files.sync_folder(target / SEGMENTS_FOLDER)
    files.sync_folder(target)


def _copy_collection(
    collection: EmbeddedCollection, target: Path, files: Files, progress: Callable[[Progress], None]
) -> BackedUp:
    total = collection.info().disk_bytes
    files.make_folder(target)
    files.make_folder(target / SEGMENTS_FOLDER)
    copy = sqlite3.connect(target / DATABASE_FILE, isolation_level=None)
    try:
        with collection.reading() as connection:

            def on_pages(_: int, remaining: int, pages: int) -> None:
                share = (pages - remaining) / max(1, pages)
                size = (target / DATABASE_FILE).stat().st_size
                progress(Progress(collection=collection.name, done_bytes=int(share * size), total_bytes=total))

            # An open transaction pins the commit that is copied; without it every commit would start the copy anew.
            connection.execute("BEGIN")
            try:
                connection.execute("SELECT count(*) FROM settings").fetchone()
                connection.backup(copy, pages=_PAGES_AT_ONCE, progress=on_pages, sleep=0)
            finally:
                connection.execute("COMMIT")
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
        done = (target / DATABASE_FILE).stat().st_size
        kept = 0
        for row in segment_rows(copy):
            source, folder = collection.folder / SEGMENTS_FOLDER / row.uid, target / SEGMENTS_FOLDER / row.uid
            try:
                done += _copy_folder(source, folder, files)
                check_folder(folder, row, collection.uid, collection.config.dimension)
                kept += 1
            except (FileNotFoundError, SegmentDamaged):
                files.remove_tree(folder)
                copy.execute("DELETE FROM segments WHERE uid = ?", (row.uid,))
            progress(Progress(collection=collection.name, done_bytes=done, total_bytes=max(total, done)))
        sequence, documents, passages = copy.execute("SELECT sequence, documents, passages FROM counters").fetchone()
    finally:
        copy.close()
    _check_database(target / DATABASE_FILE, collection.name)
    files.sync(target / DATABASE_FILE)
    files.sync_folder(target / SEGMENTS_FOLDER)
    files.sync_folder(target)
    return BackedUp(
        name=collection.name,
        sequence=sequence,
        documents=documents,
        passages=passages,
        segments=kept,
        bytes=_bytes(target),
    )


def _copy_folder(source: Path, target: Path, files: Files) -> int:
    files.make_folder(target)
    for path in source.iterdir():
        files.copy(path, target / path.name)
        files.sync(target / path.name)
    files.sync_folder(target)
    return _bytes(target)


def _check_database(path: Path, name: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise DataCorrupted(f"the database of collection {name} is damaged ({found}); use an older backup")


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _dump(backup: Backup) -> bytes:
    values = {
        "format": BACKUP_FORMAT,
        "create_time_seconds": backup.create_time_seconds,
        "collections": [asdict(entry) for entry in backup.collections],
    }
    return json.dumps(values, indent=1).encode()
