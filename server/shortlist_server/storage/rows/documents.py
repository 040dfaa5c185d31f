"""Reads documents and passages of one generation.

The functions use a reading connection that the caller owns. Every value that they return has passed its checksum.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Include, StoredDocument, StoredPassage
from shortlist_server.interpreter import TurnOnceLarge
from shortlist_server.storage.rows.checksums import damaged, document_checksum, passage_checksum, text_checksum
from shortlist_server.storage.rows.filters import Condition
from shortlist_server.storage.rows.metadata import decode
from shortlist_server.storage.rows.tables import Tables


def documents_by_id(
    connection: sqlite3.Connection, tables: Tables, ids: Sequence[str], include: Include
) -> dict[str, StoredDocument]:
    """The documents with these ids that exist, by id, with the parts asked for."""
    chosen = json.dumps(list(ids), ensure_ascii=False)
    with read_snapshot(connection):
        rows = connection.execute(
            f"SELECT {_columns(tables, include)} FROM documents WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
            (chosen,),
        )
        return {document.id: document for document in _read(connection, tables, rows, include)}


def documents_by_key(
    connection: sqlite3.Connection, tables: Tables, keys: Sequence[int], include: Include
) -> dict[int, StoredDocument]:
    """The documents with these keys that still exist, by key, with the parts asked for."""
    chosen = json.dumps([int(key) for key in keys])
    with read_snapshot(connection):
        rows = connection.execute(
            f"SELECT {_columns(tables, include)} FROM documents WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608
            (chosen,),
        )
        return {document.key: document for document in _read(connection, tables, rows, include)}


def documents_in_order(
    connection: sqlite3.Connection, tables: Tables, keys: Sequence[int], include: Include
) -> Iterator[StoredDocument]:
    """The documents with these keys that still exist, by key, read one by one within the caller's snapshot."""
    rows = connection.execute(
        f"SELECT {_columns(tables, include)} FROM documents WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608
        " ORDER BY key",
        (json.dumps([int(key) for key in keys]),),
    )
    for row in rows:
        yield from _assemble(connection, tables, [row], include)


def read_page(
    connection: sqlite3.Connection,
    tables: Tables,
    condition: Condition | None,
    after: int,
    limit: int,
    include: Include,
) -> tuple[list[StoredDocument], int | None]:
    """Documents that pass with a sequence above ``after``, by sequence, and the next page's ``after`` or None."""
    where = condition or Condition("1", ())
    with read_snapshot(connection):
        rows = connection.execute(
            f"SELECT {_columns(tables, include)} FROM documents WHERE sequence > ? AND {where.sql}"  # noqa: S608
            " ORDER BY sequence LIMIT ?",
            (after, *where.parameters, limit + 1),
        )
        documents = _read(connection, tables, islice(rows, limit), include)
        more = rows.fetchone() is not None
    return documents, documents[-1].sequence if more else None


@contextmanager
def read_snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Lets all statements of a ``with`` block see the same commit."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


_TEXT = 7
"""Place of the text in a row of ``_columns``."""


def _columns(tables: Tables, include: Include) -> str:
    metadata = "metadata, metadata_checksum" if include.metadata else "NULL, 0"
    text = "title, text, text_checksum" if include.text else "'', '', 0"
    identity = "content_hash, (SELECT checksum FROM identities WHERE identities.key = documents.key)"
    # The stored count is that of the generation which served when the document was written.
    counted = f"(SELECT count(*) FROM {tables.passages} WHERE {tables.passages}.key = documents.key)"  # noqa: S608
    return f"key, id, sequence, passage_count, {metadata}, {text}, {identity}, {counted}"


def _read(
    connection: sqlite3.Connection, tables: Tables, cursor: Iterable[tuple[Any, ...]], include: Include
) -> list[StoredDocument]:
    """Reads and checks the rows of a cursor, in a turn from the first large text on."""
    with TurnOnceLarge() as turn:
        rows = []
        for row in cursor:
            turn.met(len(row[_TEXT]))
            rows.append(row)
        return _assemble(connection, tables, rows, include)


def _assemble(
    connection: sqlite3.Connection, tables: Tables, rows: Sequence[tuple[Any, ...]], include: Include
) -> list[StoredDocument]:
    passages: dict[int, list[StoredPassage]] = {}
    if include.passages or include.vectors:
        keys = [row[0] for row in rows]
        for passage in _passages(connection, tables, "key", keys, vectors=include.vectors).values():
            passages.setdefault(passage.key, []).append(passage)
    return [
        StoredDocument(
            key=key,
            id=id,
            sequence=sequence,
            passage_count=count,
            title=title,
            text=text,
            metadata={} if metadata is None else decode(metadata),
            metadata_bytes=0 if metadata is None else len(metadata),
            passages=tuple(passages.get(key, ())),
        )
        for key, id, sequence, _, metadata, _, title, text, *_, count in map(_checked_document, rows)
    ]


def _checked_document(row: tuple[Any, ...]) -> tuple[Any, ...]:
    key, id, sequence, count, metadata, metadata_checksum, title, text, checksum, content_hash, identity, _ = row
    if document_checksum(key, id, sequence, count, content_hash) != identity:
        raise damaged(f"the identity of document {id!r}")
    if metadata is not None and zlib.crc32(metadata.encode()) != metadata_checksum:
        raise damaged(f"the metadata of document {id!r}")
    if (title or text or checksum) and text_checksum(title, text) != checksum:
        raise damaged(f"the text of document {id!r}")
    return row


def checked_vector(passage_id: int, vector: bytes, checksum: int) -> NDArray[np.float32]:
    """A stored vector, shape (dimension,).

    Raises:
        DataCorrupted: the vector differs from what was stored.
    """
    if zlib.crc32(vector) != checksum:
        raise damaged(f"the vector of passage {passage_id}")
    return np.frombuffer(vector, dtype=np.float32)


def passages_by_id(
    connection: sqlite3.Connection, tables: Tables, passage_ids: Sequence[int], *, vectors: bool, token_vectors: bool
) -> dict[int, StoredPassage]:
    """The passages with these passage ids that still exist, by passage id."""
    return _passages(connection, tables, "label", passage_ids, vectors=vectors, token_vectors=token_vectors)


def _passages(
    connection: sqlite3.Connection,
    tables: Tables,
    column: str,
    values: Sequence[int],
    *,
    vectors: bool = False,
    token_vectors: bool = False,
) -> dict[int, StoredPassage]:
    rows = connection.execute(
        "SELECT p.label, p.key, p.ordinal, p.start, p.end, p.tokens, p.row_checksum,"  # noqa: S608
        f" {'v.vector, v.checksum' if vectors else 'NULL, 0'}, {'t.vectors' if token_vectors else 'NULL'}"
        f" FROM {tables.passages} p"
        f" {f'LEFT JOIN {tables.vectors} v USING (label)' if vectors else ''}"
        f" {f'LEFT JOIN {tables.token_vectors} t USING (label)' if token_vectors else ''}"
        f" WHERE p.{column} IN (SELECT value FROM json_each(?)) ORDER BY p.label",
        (json.dumps([int(value) for value in values]),),
    )
    found = {}
    for passage_id, key, ordinal, start, end, tokens, row_checksum, vector, checksum, packed in rows:
        if passage_checksum(passage_id, key, ordinal, start, end, tokens) != row_checksum:
            raise damaged(f"the row of passage {passage_id}")
        found[passage_id] = StoredPassage(
            passage_id=passage_id,
            key=key,
            ordinal=ordinal,
            start=start,
            end=end,
            tokens=tokens,
            vector=None if vector is None else checked_vector(passage_id, vector, checksum),
            token_vectors=packed,
        )
    return found
