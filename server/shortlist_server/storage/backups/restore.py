"""Restores a collection from a backup into a data folder.

Restoring never changes the backup and never trusts it: it compares each copied file with ``backup.json``, and the
database with the counts there. The copy gets a new identity, so its files cannot be mistaken for those of the original
collection. A damaged segment is left out and rebuilt later. Any thread may call.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from shortlist_server.domain import NEVER, Cancellation
from shortlist_server.errors import DataCorrupted
from shortlist_server.storage.backups.backup import copy_segment, database_problem
from shortlist_server.storage.backups.manifest import WITHOUT_CHECKSUMS, file_problem
from shortlist_server.storage.compaction.recovery import segment_rows
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.disk.interruption import interruptible
from shortlist_server.storage.generations.marker import ReindexMarker
from shortlist_server.storage.layout import DATABASE_FILE, MANIFEST_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.opening.identity import read_identity, start_record
from shortlist_server.storage.reports import BackedUp, Backup, Progress
from shortlist_server.storage.rows import schema, settings
from shortlist_server.storage.rows.counters import read_counters, read_dimensions, serving_tables
from shortlist_server.storage.values import SegmentRow
from shortlist_server.storage.vectors.manifest import Manifest, SegmentDamaged, check_folder, sha256

logger = logging.getLogger(__name__)


def copy_back(
    backup: Backup,
    name: str,
    new_name: str,
    target: Path,
    files: Files,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancellation: Cancellation = NEVER,
) -> None:
    """Copies a collection of a backup into a new folder ``target``, complete and synced.

    Raises:
        OperationCancelled: the restore was cancelled; the caller removes ``target``.
        CollectionNotFound: the backup has no collection of that name.
        DataCorrupted: the database in the backup is missing, damaged, or not the one that was backed up.
    """
    entry = backup.entry(name)
    source = backup.path(name)
    note = "" if entry.files else WITHOUT_CHECKSUMS
    if note:
        logger.warning("restoring collection '%s' from %s: %s", name, backup.folder, note)
    with translated(name, advice="use another backup"):
        if not (source / DATABASE_FILE).is_file():
            raise _damaged(name, f"{DATABASE_FILE} is missing")
        done, total = 0, max(entry.bytes, (source / DATABASE_FILE).stat().st_size)
        progress(Progress(collection=new_name, done_bytes=0, total_bytes=total, note=note))
        files.make_folder(target)
        files.make_folder(target / SEGMENTS_FOLDER)
        files.copy(source / DATABASE_FILE, target / DATABASE_FILE, cancellation)
        _check_database(target / DATABASE_FILE, entry, cancellation)
        done += (target / DATABASE_FILE).stat().st_size
        progress(Progress(collection=new_name, done_bytes=done, total_bytes=total))
        with contextlib.closing(schema.open_writer(target / DATABASE_FILE, name)) as connection:
            with interruptible(connection, cancellation):
                _check_contents(connection, entry)
            before = read_identity(connection, name).uid
            uid = uuid.uuid4().hex
            for size in _copy_segments(connection, entry, source, target, before, uid, files, cancellation):
                done += size
                progress(Progress(collection=new_name, done_bytes=done, total_bytes=max(total, done)))
            settings.save(connection, "name", new_name)
            settings.save(connection, "uid", uid)
            settings.identify(connection)
            marker = ReindexMarker(target, files)
            marker.announce(read_counters(connection))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        start_record(target, new_name, files)
        files.sync(target / DATABASE_FILE)
        files.sync_folder(target / SEGMENTS_FOLDER)
        files.sync_folder(target)


def _check_database(path: Path, entry: BackedUp, cancellation: Cancellation) -> None:
    if entry.files:
        problem = file_problem(path, entry.files[DATABASE_FILE], cancellation)
        if problem is not None:
            raise _damaged(entry.name, f"{DATABASE_FILE} {problem}")
    problem = database_problem(path, cancellation)
    if problem is not None:
        raise _damaged(entry.name, problem)


def _check_contents(connection: sqlite3.Connection, entry: BackedUp) -> None:
    """Raises ``DataCorrupted`` if a database differs from its description in the backup."""
    problem = content_problem(connection, entry)
    if problem is not None:
        raise _damaged(entry.name, problem)


def content_problem(connection: sqlite3.Connection, entry: BackedUp) -> str | None:
    """How a database of any format differs from its description in the backup; None if it does not."""
    identity = read_identity(connection, entry.name)
    if not identity.settings_sound:
        return "its settings are damaged"
    if identity.name != entry.name or entry.uid not in ("", identity.uid):
        return f"its database is that of another collection, '{identity.name}'"
    counters = connection.execute("SELECT sequence, documents, passages FROM counters").fetchone()
    if counters != (entry.sequence, entry.documents, entry.passages):
        return (
            f"the backup should have sequence {entry.sequence} with {entry.documents} documents and {entry.passages}"
            f" passages, but has sequence {counters[0]} with {counters[1]} and {counters[2]}"
        )
    passages = serving_tables(connection).passages
    for what, table, expected in (("documents", "documents", entry.documents), ("passages", passages, entry.passages)):
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        if found != expected:
            return f"the backup should have {expected} {what}, but has {found}"
    return None


def _copy_segments(
    connection: sqlite3.Connection,
    entry: BackedUp,
    source: Path,
    target: Path,
    before: str,
    uid: str,
    files: Files,
    cancellation: Cancellation,
) -> Iterator[int]:
    """Copies the sound segments and gives them the new identity; yields the bytes of each."""
    dimensions = read_dimensions(connection)
    for row in segment_rows(connection):
        folder = target / SEGMENTS_FOLDER / row.uid
        try:
            size = copy_segment(source / SEGMENTS_FOLDER / row.uid, folder, files, cancellation)
            manifest = check_folder(folder, row, before, dimensions[row.generation], cancellation)
            _check_listed(folder, row, manifest, entry, cancellation)
        except (FileNotFoundError, SegmentDamaged) as error:
            logger.warning("collection '%s': segment %s of the backup will be rebuilt: %s", entry.name, row.uid, error)
            files.remove_tree(folder)
            connection.execute("DELETE FROM segments WHERE uid = ?", (row.uid,))
            continue
        content = _rewrite(folder / MANIFEST_FILE, manifest, uid, files)
        connection.execute("UPDATE segments SET checksum = ? WHERE uid = ?", (sha256(content), row.uid))
        yield size


def _check_listed(
    folder: Path, row: SegmentRow, manifest: Manifest, entry: BackedUp, cancellation: Cancellation
) -> None:
    for name in (*manifest.files, MANIFEST_FILE) if entry.files else ():
        expected = entry.files.get(f"{SEGMENTS_FOLDER}/{row.uid}/{name}")
        problem = (
            "is not in the backup's list" if expected is None else file_problem(folder / name, expected, cancellation)
        )
        if problem is not None:
            raise SegmentDamaged(f"{name} {problem}")


def _rewrite(path: Path, manifest: Manifest, uid: str, files: Files) -> bytes:
    content = replace(manifest, collection=uid).dump()
    files.write(path, content)
    files.sync(path)
    return content


def _damaged(name: str, problem: str) -> DataCorrupted:
    return DataCorrupted(
        f"the backup of collection '{name}' is damaged: {problem}; use another backup", metadata={"collection": name}
    )
