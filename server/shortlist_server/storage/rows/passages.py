"""Adds and removes passages of one generation. The functions use the writer's connection, within its transaction."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence

import numpy as np

from shortlist_server.domain import NewPassage
from shortlist_server.errors import InvalidVector
from shortlist_server.storage.rows.checksums import passage_checksum
from shortlist_server.storage.rows.inserts import insert_rows
from shortlist_server.storage.rows.tables import Tables
from shortlist_server.storage.values import PassageChange


class NewRows:
    """The rows of passages to insert into one generation, collected before any of them is written.

    Attributes:
        change: the change that the dense index gets once they are committed.
    """

    def __init__(self, tables: Tables, dimension: int) -> None:
        self.change = PassageChange()
        self._tables = tables
        self._dimension = dimension
        self._passages: list[tuple[int, int, int, int, int, int, int]] = []
        self._token_vectors: list[tuple[int, bytes]] = []

    def add(self, key: int, passages: Sequence[NewPassage], passage_id: int) -> int:
        """Adds a document's passages, with passage ids from ``passage_id`` on; returns the next passage id."""
        change = self.change
        for ordinal, passage in enumerate(passages):
            change.passage_ids.append(passage_id)
            change.keys.append(key)
            change.vectors.append(passage.vector)
            row = (passage_id, key, ordinal, passage.start, passage.end, passage.tokens)
            self._passages.append((*row, passage_checksum(*row)))
            if passage.token_vectors is not None:
                self._token_vectors.append((passage_id, passage.token_vectors))
                change.token_bytes += len(passage.token_vectors)
            passage_id += 1
        return passage_id

    def packed(self) -> list[bytes]:
        """The vectors as they are stored.

        Raises:
            InvalidVector: a vector has the wrong size or is not finite.
        """
        vectors = self.change.vectors
        if any(vector.shape != (self._dimension,) for vector in vectors):
            raise InvalidVector(f"a passage's vector must have {self._dimension} dimensions", field="vector")
        if not vectors:
            return []
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        # One element that is not finite makes the sum not finite, so one pass without a mask is enough.
        if not np.isfinite(np.sum(matrix, dtype=np.float64)):
            raise InvalidVector("a passage's vector has an element that is not finite", field="vector")
        return [row.tobytes() for row in matrix]

    def insert(self, connection: sqlite3.Connection, packed: Sequence[bytes]) -> None:
        """Writes the rows; ``packed`` is what ``packed`` returned."""
        tables = self._tables
        columns = ("label", "key", "ordinal", "start", "end", "tokens", "row_checksum")
        insert_rows(connection, tables.passages, columns, self._passages)
        vectors = [
            (passage_id, zlib.crc32(vector), vector)
            for passage_id, vector in zip(self.change.passage_ids, packed, strict=True)
        ]
        insert_rows(connection, tables.vectors, ("label", "checksum", "vector"), vectors)
        insert_rows(connection, tables.token_vectors, ("label", "vectors"), self._token_vectors)


def remove(connection: sqlite3.Connection, tables: Tables, keys: Sequence[int]) -> dict[int, list[int]]:
    """Removes the passages of some documents; returns the passage ids of each document that had some, by key."""
    chosen = (json.dumps(list(keys)),)
    found: dict[int, list[int]] = {}
    for key, passage_id in connection.execute(
        f"SELECT key, label FROM {tables.passages} WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608
        chosen,
    ):
        found.setdefault(key, []).append(passage_id)
    if found:
        gone = (json.dumps([passage_id for passage_ids in found.values() for passage_id in passage_ids]),)
        for table in (tables.vectors, tables.token_vectors, tables.passages):
            connection.execute(f"DELETE FROM {table} WHERE label IN (SELECT value FROM json_each(?))", gone)  # noqa: S608
    return found


def with_passages(connection: sqlite3.Connection, tables: Tables, keys: Sequence[int]) -> set[int]:
    """Those of some documents that have passages in a generation."""
    rows = connection.execute(
        f"SELECT DISTINCT key FROM {tables.passages} WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608
        (json.dumps(list(keys)),),
    )
    return {row[0] for row in rows}
