"""Dead letters: documents that an ingest stream could not store, kept for inspection and retry.

The rows change in the same transaction as the documents and the stream's position. A failure is recorded before its
acknowledgement is sent, and a later success with the same id removes it. The functions use a connection that the caller
owns.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from sqlite_utils import Database

from shortlist_server.domain import DeadLetter

MAX_ROWS = 10_000
"""Failures kept in a collection; more push out the oldest."""

_COLUMNS = "number, id, stream, position, time, reason, message, field, retryable, document"


def create_table(db: Database) -> None:
    """Adds the table to a collection's database."""
    # A number is never used again, or a retry could meet another document's failure.
    db.execute(
        "CREATE TABLE quarantine (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, stream TEXT NOT NULL,"
        " position INTEGER NOT NULL, time REAL NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,"
        " field TEXT NOT NULL, retryable INTEGER NOT NULL, document BLOB) STRICT"
    )
    db.table("quarantine").create_index(["id"], index_name="quarantine_by_id")
    db.table("quarantine").create_index(["stream", "position"], index_name="quarantine_by_position")


def add(connection: sqlite3.Connection, failures: Sequence[DeadLetter]) -> None:
    """Records failures, and removes the oldest beyond the limit.

    A failure replaces an earlier one with the same id, and one at the same position of the same named stream. Streams
    without a name share no positions.
    """
    for failure in failures:
        connection.execute(
            "DELETE FROM quarantine WHERE (id = ? AND id <> '') OR (stream = ? AND stream <> '' AND position = ?)",
            (failure.id, failure.stream, failure.position),
        )
        connection.execute(
            "INSERT INTO quarantine (id, stream, position, time, reason, message, field, retryable, document)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                failure.id,
                failure.stream,
                failure.position,
                failure.time_seconds,
                failure.reason,
                failure.message,
                failure.field,
                failure.retryable,
                failure.document,
            ),
        )
    connection.execute(
        "DELETE FROM quarantine WHERE number <= (SELECT number FROM quarantine ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (MAX_ROWS,),
    )


def settle(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """Removes the failures of documents that have since been stored or deleted. Fast when there are none."""
    if connection.execute("SELECT 1 FROM quarantine LIMIT 1").fetchone() is not None:
        connection.execute(
            "DELETE FROM quarantine WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids), ensure_ascii=False),),
        )


def forget(connection: sqlite3.Connection, numbers: Sequence[int]) -> int:
    """Removes failures by number; returns how many existed."""
    cursor = connection.execute(
        "DELETE FROM quarantine WHERE number IN (SELECT value FROM json_each(?))", (json.dumps(list(numbers)),)
    )
    return cursor.rowcount


def page(connection: sqlite3.Connection, after: int, limit: int) -> tuple[list[DeadLetter], int | None]:
    """Up to ``limit`` failures with a number above ``after``, oldest first, and the next page's ``after`` or None."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM quarantine WHERE number > ? ORDER BY number LIMIT ?",  # noqa: S608
        (after, limit + 1),
    ).fetchall()
    return [_read(row) for row in rows[:limit]], rows[limit - 1][0] if len(rows) > limit else None


def by_number(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[DeadLetter]:
    """The failures that exist among these numbers, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM quarantine WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number",  # noqa: S608
        (json.dumps(list(numbers)),),
    )
    return [_read(row) for row in rows]


def of_stream(connection: sqlite3.Connection, stream: str, first: int, last: int) -> dict[int, DeadLetter]:
    """The failures of a stream between two positions, both included, by position."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM quarantine WHERE stream = ? AND position BETWEEN ? AND ?",  # noqa: S608
        (stream, first, last),
    )
    return {failure.position: failure for failure in map(_read, rows)}


def _read(row: tuple[int, str, str, int, float, str, str, str, int, bytes | None]) -> DeadLetter:
    number, id, stream, position, time, reason, message, field, retryable, document = row
    return DeadLetter(
        number=number,
        id=id,
        stream=stream,
        position=position,
        time_seconds=time,
        reason=reason,
        message=message,
        field=field,
        retryable=bool(retryable),
        document=document,
    )
