"""Inserting many rows with few statements."""

from __future__ import annotations

import sqlite3

import pytest

from shortlist_server.storage.rows.inserts import ROWS_AT_ONCE, insert_rows


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute('CREATE TABLE rows (key INTEGER PRIMARY KEY, "end" TEXT, data BLOB)')
    return connection


@pytest.mark.parametrize("count", [0, 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 3 * ROWS_AT_ONCE - 1])
def test_every_row_is_inserted_as_it_is(connection: sqlite3.Connection, count: int) -> None:
    rows = [(key, f"text {key}", bytes([key % 256])) for key in range(count)]
    insert_rows(connection, "rows", ("key", "end", "data"), rows)
    assert connection.execute("SELECT * FROM rows ORDER BY key").fetchall() == rows


def test_as_few_statements_are_run_as_possible(connection: sqlite3.Connection) -> None:
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    insert_rows(connection, "rows", ("key", "end", "data"), [(key, "", b"") for key in range(2 * ROWS_AT_ONCE + 1)])
    assert len([one for one in statements if one.startswith("INSERT")]) == 3


def test_a_row_that_cannot_be_inserted_is_an_error(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        insert_rows(connection, "rows", ("key", "end", "data"), [(1, "", b""), (1, "", b"")])
