"""Backups of collections, made while they are in use.

A backup is a folder: collections in the layout of the store, and a ``backup.json`` that describes each of them (see
``backups/manifest.py``). SQLite's backup API copies the database as of one commit; segments never change and are copied
as files. A backup leaves out a segment that a merge removed meanwhile or whose copy fails its checksum: a restored
collection rebuilds it. Every backup is checked when it is made, and appears under its name only when it is complete and
synced. Until then its name starts with a dot, and a lock marks it as in progress. The next start removes a backup that
a killed server left unfinished. Any thread may call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from shortlist_server.domain import NEVER, Cancellation, models_of
from shortlist_server.errors import DataCorrupted, InvalidArgument
from shortlist_server.storage.backups.manifest import describe_files, dump
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.recovery import segment_rows
from shortlist_server.storage.disk.data_folder import NAME
from shortlist_server.storage.disk.files import CrashPoint, Files, new_file
from shortlist_server.storage.disk.interruption import interruptible
from shortlist_server.storage.disk.locking import lock_folder, try_lock
from shortlist_server.storage.layout import BACKUP_FILE, COLLECTIONS_FOLDER, DATABASE_FILE, LOCK_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.opening.identity import read_identity, start_record
from shortlist_server.storage.reports import BackedUp, Backup, Progress
from shortlist_server.storage.rows.counters import read_dimensions
from shortlist_server.storage.vectors.manifest import SegmentDamaged, check_folder

logger = logging.getLogger(__name__)

_PAGES_AT_ONCE = 4096
_STEPS_OF_SYNC = 4
"""Copies of so many pages between two syncs, for the reason given in ``Files.copy``."""
_PARTIAL = re.compile(rf"\.{NAME.pattern}\.partial")


def write_backup(
    collections: Sequence[EmbeddedCollection],
    target: Path,
    files: Files,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancellation: Cancellation = NEVER,
    crash_point: CrashPoint,
) -> Backup:
    """Backs up collections into a new folder, each as of one commit.

    Raises:
        OperationCancelled: the backup was cancelled; the unfinished copy is removed.
        InvalidArgument: ``target`` exists or is being made, or its parent does not exist.
        DataCorrupted: a copied database fails its check, because the collection itself is damaged.
        OutOfSpace: the target's disk is full; the unfinished copy is removed.
    """
    if target.exists() or not target.parent.is_dir():
        raise InvalidArgument(f"{target} must be a new folder in an existing one", field="folder")
    temporary = target.parent / f".{target.name}.partial"
    with _claimed(temporary, files):
        folder = temporary / COLLECTIONS_FOLDER
        files.make_folder(folder)
        done = []
        for collection in collections:
            done.append(_copy_collection(collection, folder / collection.name, files, progress, cancellation))
            crash_point("backup:collection")
        made = Backup(folder=target, create_time_seconds=time.time(), collections=tuple(done))
        files.write(temporary / BACKUP_FILE, dump(made))
        files.sync(temporary / BACKUP_FILE)
        (temporary / LOCK_FILE).unlink()
        files.sync_folder(folder)
        files.sync_folder(temporary)
        crash_point("backup:written")
        # The last moment: under its name, a backup is complete.
        cancellation.check()
        files.rename(temporary, target)
        files.sync_folder(target.parent)
    return made


def remove_partial(folder: Path, files: Files) -> int:
    """Removes unfinished backups of killed servers from a backup folder; returns their number.

    Backups in progress stay.
    """
    if not folder.is_dir():
        return 0
    with lock_folder(folder):
        return _remove_partial(folder, files)


def _remove_partial(folder: Path, files: Files) -> int:
    removed = 0
    for path in folder.iterdir():
        if _PARTIAL.fullmatch(path.name) and path.is_dir():
            with contextlib.suppress(OSError):
                lock = try_lock(path / LOCK_FILE)
                if lock is not None:
                    files.remove_tree(path)
                    os.close(lock)
                    removed += 1
    if removed:
        logger.info("removed %d unfinished backups from %s", removed, folder)
    return removed


@contextlib.contextmanager
def _claimed(temporary: Path, files: Files) -> Iterator[None]:
    """Makes the folder of a backup in progress and holds its lock; removes the folder if the block fails."""
    # Until a backup holds its lock, another one that begins would take its folder for a leftover.
    with lock_folder(temporary.parent):
        _remove_partial(temporary.parent, files)
        try:
            files.make_folder(temporary)
        except FileExistsError as error:
            name = temporary.name[1:].removesuffix(".partial")
            raise InvalidArgument(f"a backup named {name!r} is being made", field="folder") from error
        lock = try_lock(temporary / LOCK_FILE)
    try:
        yield
    except BaseException:
        files.remove_tree(temporary)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _copy_collection(
    collection: EmbeddedCollection,
    target: Path,
    files: Files,
    progress: Callable[[Progress], None],
    cancellation: Cancellation,
) -> BackedUp:
    cancellation.check()
    total = collection.info().disk_bytes
    files.make_folder(target)
    files.make_folder(target / SEGMENTS_FOLDER)
    new_file(target / DATABASE_FILE)
    # Closed after SQLite's own: the first close of a file gives up all of the process's locks on it (fcntl(2)).
    descriptor = os.open(target / DATABASE_FILE, os.O_RDONLY)
    try:
        copy = sqlite3.connect(target / DATABASE_FILE, isolation_level=None)
    except BaseException:
        os.close(descriptor)
        raise
    try:
        with collection.reading() as connection:
            steps = 0

            def on_pages(_: int, remaining: int, pages: int) -> None:
                nonlocal steps
                cancellation.check()
                steps += 1
                if steps % _STEPS_OF_SYNC == 0:
                    os.fdatasync(descriptor)
                share = (pages - remaining) / max(1, pages)
                size = (target / DATABASE_FILE).stat().st_size
                progress(Progress(collection=collection.name, done_bytes=int(share * size), total_bytes=total))

            # An open transaction pins the commit that is copied. Without it, every commit would restart the copy.
            connection.execute("BEGIN")
            try:
                connection.execute("SELECT count(*) FROM settings").fetchone()
                connection.backup(copy, pages=_PAGES_AT_ONCE, progress=on_pages, sleep=0)
            finally:
                connection.execute("COMMIT")
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
        done = (target / DATABASE_FILE).stat().st_size
        kept = 0
        dimensions = read_dimensions(copy)
        for row in segment_rows(copy):
            source, folder = collection.folder / SEGMENTS_FOLDER / row.uid, target / SEGMENTS_FOLDER / row.uid
            try:
                done += copy_segment(source, folder, files, cancellation)
                check_folder(folder, row, collection.uid, dimensions[row.generation], cancellation)
                kept += 1
            except (FileNotFoundError, SegmentDamaged):
                files.remove_tree(folder)
                copy.execute("DELETE FROM segments WHERE uid = ?", (row.uid,))
            progress(Progress(collection=collection.name, done_bytes=done, total_bytes=max(total, done)))
        sequence, documents, passages = copy.execute("SELECT sequence, documents, passages FROM counters").fetchone()
        identity = read_identity(copy, collection.name)
    finally:
        copy.close()
        os.close(descriptor)
    problem = database_problem(target / DATABASE_FILE, cancellation)
    if problem is not None:
        raise DataCorrupted(
            f"the database of collection '{collection.name}' is damaged ({problem}); restore it from an earlier backup",
            metadata={"collection": collection.name},
        )
    start_record(target, collection.name, files)
    files.sync(target / DATABASE_FILE)
    files.sync_folder(target / SEGMENTS_FOLDER)
    files.sync_folder(target)
    described = describe_files(target, cancellation)
    return BackedUp(
        name=collection.name,
        uid=identity.uid,
        sequence=sequence,
        documents=documents,
        passages=passages,
        segments=kept,
        bytes=sum(file.bytes for file in described.values()),
        files=described,
        models=tuple(sorted(models_of(collection.config, collection.generations()))),
    )


def copy_segment(source: Path, target: Path, files: Files, cancellation: Cancellation) -> int:
    """Copies and syncs a segment's folder; returns its bytes. Raises ``FileNotFoundError`` if a file is missing."""
    files.make_folder(target)
    for path in source.iterdir():
        files.copy(path, target / path.name, cancellation)
        files.sync(target / path.name)
    files.sync_folder(target)
    return sum(path.stat().st_size for path in target.iterdir())


def database_problem(path: Path, cancellation: Cancellation) -> str | None:
    """What SQLite finds wrong with a database that nobody has open; None if it is sound."""
    with (
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection,
        interruptible(connection, cancellation),
    ):
        found: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    return None if found == "ok" else found
