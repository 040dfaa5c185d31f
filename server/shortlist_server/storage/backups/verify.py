"""Verifies a backup in place, without changing a byte of it.

Compares each file with ``backup.json`` and checks each database like that of a live collection, through a connection
that takes no lock and makes no file. Takes about as long as reading the backup. Any thread may call.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from shortlist_server.errors import ShortlistError
from shortlist_server.storage.backups.manifest import WITHOUT_CHECKSUMS, file_problems, read_backup
from shortlist_server.storage.backups.restore import content_problem
from shortlist_server.storage.compaction.recovery import segment_rows
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.layout import DATABASE_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.opening.identity import read_identity
from shortlist_server.storage.reports import BackedUp, Backup, Check, CollectionReport
from shortlist_server.storage.rows import schema
from shortlist_server.storage.rows.counters import read_dimensions
from shortlist_server.storage.rows.integrity import database_checks
from shortlist_server.storage.vectors.manifest import SegmentDamaged, check_folder

ADVICE = "use another backup"


def verify_backup(
    folder: Path, collection: str | None = None, *, progress: Callable[[str, str], None] = lambda name, step: None
) -> list[CollectionReport]:
    """Checks one collection of a backup, or all of them. The latter also reports folders that are not listed.

    Args:
        progress: called with the collection and the step before each step.

    Raises:
        InvalidArgument: the folder is not a complete backup, or a newer release made it.
        DataCorrupted: its ``backup.json`` is damaged.
        CollectionNotFound: the backup has no such collection.
    """
    backup = read_backup(folder)
    entries = backup.collections if collection is None else [backup.entry(collection)]
    reports = [_verified(backup, entry, progress) for entry in entries]
    if collection is None:
        parent = backup.path("")
        listed = {entry.name for entry in backup.collections}
        for path in sorted(parent.iterdir()) if parent.is_dir() else ():
            if path.name not in listed:
                stray = Check(name="backup.json", ok=False, detail=f"{path.name} is not part of this backup")
                reports.append(CollectionReport(name=path.name, checks=[stray]))
    return reports


def _verified(backup: Backup, entry: BackedUp, progress: Callable[[str, str], None]) -> CollectionReport:
    report = CollectionReport(name=entry.name, documents=entry.documents, passages=entry.passages)
    progress(entry.name, "files")
    problems = [f"{path} {problem}" for path, problem in file_problems(backup, entry)]
    report.checks.append(Check(name="files", ok=not problems, detail=f"{'; '.join(problems)[:1000]}; {ADVICE}"))
    if not entry.files:
        report.notes.append(WITHOUT_CHECKSUMS)
    progress(entry.name, "database")
    try:
        with translated(entry.name, ADVICE):
            report.checks += _database_checks(backup, entry)
    except ShortlistError as error:
        report.checks.append(Check(name="database", ok=False, detail=error.message))
    return report


def _database_checks(backup: Backup, entry: BackedUp) -> Iterator[Check]:
    path = backup.path(entry.name) / DATABASE_FILE
    if not path.is_file():
        yield Check(name="database", ok=False, detail=f"{DATABASE_FILE} is missing; {ADVICE}")
        return
    # immutable: SQLite makes no lock and no log, which would be extra files in the backup.
    uri = path.absolute().as_uri() + "?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        schema.check_format(connection, entry.name)
        problem = content_problem(connection, entry)
        yield Check(name="what backup.json says", ok=problem is None, detail=f"{problem}; {ADVICE}")
        yield from database_checks(connection)
        uid = read_identity(connection, entry.name).uid
        dimensions = read_dimensions(connection)
        for row in segment_rows(connection):
            try:
                check_folder(path.parent / SEGMENTS_FOLDER / row.uid, row, uid, dimensions[row.generation])
            except SegmentDamaged as error:
                yield Check(name=f"segment {row.uid}", ok=False, detail=f"{error}; restoring rebuilds it")
            else:
                yield Check(name=f"segment {row.uid}", ok=True)
