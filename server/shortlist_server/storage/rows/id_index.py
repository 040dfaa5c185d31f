"""Checks that the index of document ids is complete.

A flipped bit in the index makes a document look absent: a lookup by id would miss it, and storing it again would make a
second one. Therefore every commit updates a checksum in the counters: the exclusive or over all ids with their keys.
Opening a collection compares it with the whole index (half a microsecond a document), and rebuilds an index that
differs from the documents.
"""

from __future__ import annotations

import logging
import sqlite3

from shortlist_server.errors import DataCorrupted
from shortlist_server.storage.rows.checksums import id_checksum

logger = logging.getLogger(__name__)

_INDEX = "documents_by_id"


def check_id_index(connection: sqlite3.Connection, name: str) -> None:
    """Compares the index with the checksum; rebuilds it from the documents if they differ.

    Raises:
        DataCorrupted: the documents' ids differ from the checksum as well.
    """
    (expected,) = connection.execute("SELECT ids_checksum FROM counters").fetchone()
    if all_ids(connection) == expected:
        return
    try:
        connection.execute(f"REINDEX {_INDEX}")
        mended = all_ids(connection) == expected
    except sqlite3.IntegrityError:
        mended = False
    if not mended:
        raise DataCorrupted(
            f"the ids of documents in collection '{name}' are damaged; restore a backup", metadata={"collection": name}
        )
    logger.warning("collection '%s': the index of document ids was damaged and is rebuilt from the documents", name)


def all_ids(connection: sqlite3.Connection) -> int:
    """The checksum of all ids with their keys, read from the index."""
    # Read as bytes, because a damaged id may not be valid UTF-8. The index covers both columns: no document is read.
    rows = connection.execute(f"SELECT CAST(id AS BLOB), key FROM documents INDEXED BY {_INDEX} WHERE id >= ''")  # noqa: S608
    checksum = 0
    for id, key in rows:
        checksum ^= id_checksum(id, key)
    return checksum
