"""Reads the documents that a generation lacks. The caller owns the connection."""

from __future__ import annotations

import sqlite3

from shortlist_server.domain import Include, StoredDocument
from shortlist_server.storage.rows.documents import documents_in_order, read_snapshot
from shortlist_server.storage.rows.tables import Tables

_PARTS = Include(text=True, metadata=False)


def read_lacking(
    connection: sqlite3.Connection, lacking: Tables, serving: Tables, after: int, limit: int, max_bytes: int
) -> tuple[list[StoredDocument], int]:
    """Documents with a key above ``after`` that a generation lacks, by key, and the cursor after them.

    At most ``limit``, and fewer once their texts exceed ``max_bytes``. If nothing is lacking above ``after``, returns
    no documents and the last key given out.

    Args:
        lacking: the tables of the generation.
        serving: the tables in which the passages of each document are counted.
    """
    with read_snapshot(connection):
        (cursor,) = connection.execute("SELECT next_key - 1 FROM counters").fetchone()
        keys = [
            row[0]
            for row in connection.execute(
                "SELECT key FROM identities i WHERE key > ?"  # noqa: S608
                f" AND NOT EXISTS (SELECT 1 FROM {lacking.passages} p WHERE p.key = i.key) ORDER BY key LIMIT ?",
                (after, limit + 1),
            )
        ]
        found: list[StoredDocument] = []
        size = 0
        for document in documents_in_order(connection, serving, keys, _PARTS):
            if len(found) == limit or (found and size > max_bytes):
                return found, document.key - 1
            size += len(document.title.encode()) + len(document.text.encode())
            found.append(document)
        return found, cursor
