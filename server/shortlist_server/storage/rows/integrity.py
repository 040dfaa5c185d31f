"""Verifies a database: its pages, its counts, and the checksum of every row.

Reads in one transaction, through a connection that the caller owns. A large database takes minutes.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shortlist_server.storage.reports import Check
from shortlist_server.storage.rows import schema
from shortlist_server.storage.rows.checksums import (
    SETTINGS_CHECKSUM,
    document_checksum,
    passage_checksum,
    settings_checksum,
    stream_checksum,
)
from shortlist_server.storage.rows.id_index import all_ids

_COUNTS = {
    "documents counted": ("SELECT documents FROM counters", "SELECT count(*) FROM documents"),
    "passages counted": ("SELECT passages FROM counters", "SELECT count(*) FROM passages"),
    "passages of all documents": ("SELECT count(*) FROM passages", "SELECT sum(passage_count) FROM documents"),
    "documents of all passages": (
        "SELECT count(*) FROM passages",
        "SELECT count(*) FROM passages JOIN documents USING (key)",
    ),
    "vectors": ("SELECT count(*) FROM passages", "SELECT count(*) FROM passages JOIN vectors USING (label)"),
    "vectors without a passage": ("SELECT count(*) FROM passages", "SELECT count(*) FROM vectors"),
    "documents in the lexical index": ("SELECT count(*) FROM documents", "SELECT count(*) FROM lexical_docsize"),
}
_UNUSED = {
    "labels": ("SELECT next_label FROM counters", "SELECT max(label) FROM passages"),
    "keys": ("SELECT next_key FROM counters", "SELECT max(key) FROM documents"),
    "sequences": ("SELECT sequence + 1 FROM counters", "SELECT max(sequence) FROM documents"),
}
_NAMED = 10


def database_checks(connection: sqlite3.Connection) -> Iterator[Check]:
    """Checks a database in this release's format or an earlier one."""
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
    yield Check(name="database pages", ok=found == ["ok"], detail="; ".join(found)[:500])
    connection.execute("BEGIN")
    try:
        for name, (left, right) in _COUNTS.items():
            a, b = (connection.execute(sql).fetchone()[0] or 0 for sql in (left, right))
            yield Check(name=name, ok=a == b, detail=f"{a} expected, {b} found")
        for name, (left, right) in _UNUSED.items():
            following, last = (connection.execute(sql).fetchone()[0] or 0 for sql in (left, right))
            yield Check(name=f"{name} not given out twice", ok=last < following, detail=f"{last} is in use")
        yield from _content_checks(connection)
        if schema.check_format(connection, "") >= schema.FIRST_FORMAT_WITH_COMMITS:
            yield from _identity_checks(connection)
    finally:
        connection.execute("COMMIT")


def _content_checks(connection: sqlite3.Connection) -> Iterator[Check]:
    yield _rows(
        "checksums of vectors",
        "passages",
        connection.execute("SELECT label, vector, checksum FROM vectors"),
        lambda label, vector, checksum: zlib.crc32(vector) == checksum,
    )
    # Texts are read as bytes, because damaged text may not be valid UTF-8.
    yield _rows(
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
        "checksums of passages",
        "passages",
        connection.execute('SELECT label, key, ordinal, start, "end", tokens, row_checksum FROM passages'),
        lambda *row: passage_checksum(*row[:-1]) == row[-1],
    )
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
