"""Verifies a database: its pages, its counts, and the checksum of every row.

Reads in one transaction, through a connection that the caller owns. A large database takes minutes.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shortlist_server.errors import DataCorrupted
from shortlist_server.storage.reports import Check
from shortlist_server.storage.rows import schema
from shortlist_server.storage.rows.checksums import (
    SETTINGS_CHECKSUM,
    document_checksum,
    passage_checksum,
    settings_checksum,
    stream_checksum,
)
from shortlist_server.storage.rows.counters import read_counters
from shortlist_server.storage.rows.id_index import all_ids
from shortlist_server.storage.rows.tables import tables_of
from shortlist_server.storage.values import GenerationRow

_COUNTS = {
    "documents counted": ("SELECT documents FROM counters", "SELECT count(*) FROM documents"),
    "documents in the lexical index": ("SELECT count(*) FROM documents", "SELECT count(*) FROM lexical_docsize"),
}
_COUNTS_OF_GENERATION = {
    "documents of all passages": (
        "SELECT count(*) FROM {passages}",
        "SELECT count(*) FROM {passages} JOIN documents USING (key)",
    ),
    "vectors": ("SELECT count(*) FROM {passages}", "SELECT count(*) FROM {passages} JOIN {vectors} USING (label)"),
    "vectors without a passage": ("SELECT count(*) FROM {passages}", "SELECT count(*) FROM {vectors}"),
    "token vectors without a passage": (
        "SELECT count(*) FROM {token_vectors}",
        "SELECT count(*) FROM {token_vectors} JOIN {passages} USING (label)",
    ),
}
_FIRST_GENERATION = (
    # Each document knows its passages in the generation in which it was written.
    "passages of all documents",
    "SELECT count(*) FROM passages",
    "SELECT sum(passage_count) FROM documents",
)
_UNUSED = {
    "keys": ("SELECT next_key FROM counters", "SELECT max(key) FROM documents"),
    "sequences": ("SELECT sequence + 1 FROM counters", "SELECT max(sequence) FROM documents"),
}
_NAMED = 10

UNREPAIRABLE = (
    "damage",
    "passages counted",
    "documents counted",
    *_COUNTS_OF_GENERATION,
    "checksums of vectors",
    "checksums of passages",
)
"""The checks of a generation's rows. If one fails, only a new build helps; ``suffix`` ends their names."""


def database_checks(connection: sqlite3.Connection) -> Iterator[Check]:
    """Checks a database in this release's format or an earlier one."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
    yield Check(name="database pages", ok=found == ["ok"], detail="; ".join(found)[:500])
    connection.execute("BEGIN")
    try:
        format = schema.check_format(connection, "")
        for name, (left, right) in _COUNTS.items():
            yield _count(connection, name, left, right)
        for name, (left, right) in _UNUSED.items():
            yield _unused(connection, name, left, right)
        yield _rows(
            # Texts are read as bytes, because damaged text may not be valid UTF-8.
            "checksums of documents",
            "documents",
            connection.execute(
                "SELECT key, CAST(metadata AS BLOB), metadata_checksum, CAST(title AS BLOB), CAST(text AS BLOB),"
                " text_checksum FROM documents"
            ),
            lambda key, metadata, metadata_checksum, title, text, checksum: (
                zlib.crc32(metadata) == metadata_checksum and zlib.crc32(text, zlib.crc32(title)) == checksum
            ),
        )
        if format >= schema.FIRST_FORMAT_WITH_COMMITS:
            yield from _identity_checks(connection)
        if format < schema.FIRST_FORMAT_WITH_GENERATIONS:
            (passages,) = connection.execute("SELECT passages FROM counters").fetchone()
            yield from _generation_checks(connection, 1, "", passages, checksums=format > 3)
            yield _count(connection, *_FIRST_GENERATION)
        else:
            yield from _all_generation_checks(connection)
    finally:
        connection.execute("COMMIT")


def suffix(generation: int, serving: int) -> str:
    """What the names of checks of a generation end with; nothing for the one that serves."""
    return "" if generation == serving else f" of generation {generation}"


def _all_generation_checks(connection: sqlite3.Connection) -> Iterator[Check]:
    try:
        counters = read_counters(connection)
    except DataCorrupted as error:
        yield Check(name="generations", ok=False, detail=error.message)
        return
    serving = counters.serving.number
    if counters.last_generation == 1:
        yield _count(connection, *_FIRST_GENERATION)
    for row in counters.generations:
        name = suffix(row.number, serving)
        if row.problem:
            yield Check(name=f"damage{name}", ok=False, detail=row.problem)
        if not row.is_live:
            continue
        try:
            yield from _generation_checks(connection, row.number, name, row.passages, checksums=True)
            if row.number != serving:
                yield _documents_of(connection, row, name)
        except sqlite3.DatabaseError as error:
            if row.number == serving or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_INTERRUPT:
                raise
            yield Check(name=f"damage{name}", ok=False, detail=str(error))


def _documents_of(connection: sqlite3.Connection, row: GenerationRow, name: str) -> Check:
    """Compares the number of documents that a generation has with its cursor and its passages."""
    held = connection.execute(
        "SELECT count(*) FROM identities i WHERE key <= ?"  # noqa: S608
        f" OR EXISTS (SELECT 1 FROM {tables_of(row.number).passages} p WHERE p.key = i.key)",
        (row.cursor,),
    ).fetchone()[0]
    return Check(
        name=f"documents counted{name}", ok=held == row.documents, detail=f"{row.documents} expected, {held} found"
    )


def _generation_checks(
    connection: sqlite3.Connection, number: int, name: str, passages: int, *, checksums: bool
) -> Iterator[Check]:
    """Checks the tables of a generation. ``name``: what the checks' names end with; ``passages``: its count."""
    tables = tables_of(number)
    names = dataclasses.asdict(tables)
    found = connection.execute(f"SELECT count(*) FROM {tables.passages}").fetchone()[0]  # noqa: S608
    detail = f"{passages} expected, {found} found"
    yield Check(name=f"passages counted{name}", ok=found == passages, detail=detail)
    for check, (left, right) in _COUNTS_OF_GENERATION.items():
        yield _count(connection, check + name, left.format(**names), right.format(**names))
    last = f"SELECT max(label) FROM {tables.passages}"  # noqa: S608
    yield _unused(connection, f"labels{name}", "SELECT next_label FROM counters", last)
    yield _rows(
        f"checksums of vectors{name}",
        "passages",
        connection.execute(f"SELECT label, vector, checksum FROM {tables.vectors}"),  # noqa: S608
        lambda passage_id, vector, checksum: zlib.crc32(vector) == checksum,
    )
    if checksums:
        yield _rows(
            f"checksums of passages{name}",
            "passages",
            connection.execute(
                f'SELECT label, key, ordinal, start, "end", tokens, row_checksum FROM {tables.passages}'  # noqa: S608
            ),
            lambda *row: passage_checksum(*row[:-1]) == row[-1],
        )


def _count(connection: sqlite3.Connection, name: str, left: str, right: str) -> Check:
    a, b = (connection.execute(sql).fetchone()[0] or 0 for sql in (left, right))
    return Check(name=name, ok=a == b, detail=f"{a} expected, {b} found")


def _unused(connection: sqlite3.Connection, name: str, left: str, right: str) -> Check:
    following, last = (connection.execute(sql).fetchone()[0] or 0 for sql in (left, right))
    return Check(name=f"{name} not given out twice", ok=last < following, detail=f"{last} is in use")


def _identity_checks(connection: sqlite3.Connection) -> Iterator[Check]:
    yield _rows(
        "checksums of ids",
        "documents",
        connection.execute(
            "SELECT key, CAST(id AS BLOB), sequence, passage_count, content_hash, checksum"
            " FROM documents LEFT JOIN identities USING (key)"
        ),
        lambda *row: document_checksum(*row[:-1]) == row[-1],
    )
    (expected,) = connection.execute("SELECT ids_checksum FROM counters").fetchone()
    yield Check(name="index of ids", ok=all_ids(connection) == expected, detail="it differs from the documents")
    orphans = connection.execute(
        "SELECT count(*) FROM identities WHERE key NOT IN (SELECT key FROM documents)"
    ).fetchone()[0]
    yield Check(name="checksums without a document", ok=not orphans, detail=f"{orphans} found")
    yield _rows(
        "checksums of streams",
        "streams",
        connection.execute("SELECT CAST(name AS BLOB), position, checksum FROM streams"),
        lambda *row: stream_checksum(*row[:-1]) == row[-1],
    )
    stored = schema.read_settings(connection)
    uid = connection.execute("SELECT uid FROM counters").fetchone()[0]
    sound = stored.get(SETTINGS_CHECKSUM) == str(settings_checksum(stored)) and uid == stored.get("uid")
    yield Check(name="settings and identity", ok=sound, detail="damaged, or another collection's")


def _rows(name: str, what: str, rows: Iterable[tuple[Any, ...]], holds: Callable[..., bool]) -> Check:
    """Checks each row; the first column identifies it."""
    bad = [row[0] for row in rows if not holds(*row)]
    return Check(name=name, ok=not bad, detail=f"damaged: {what} {bad[:_NAMED]}")
