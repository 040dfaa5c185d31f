"""Reads a collection: its reading connections, and the queries on them.

Each call uses a connection of its own and then returns it. The connections kept for later calls are few, for all
collections together. Every call sees all that was committed before it began. Any thread may call.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import DeadLetter, Include, StoredDocument, StoredPassage
from shortlist_server.errors import DataCorrupted, Unavailable
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.rows import dead_letters, schema
from shortlist_server.storage.rows.checksums import document_checksum, passage_checksum, stream_checksum, text_checksum
from shortlist_server.storage.rows.filters import Condition
from shortlist_server.storage.rows.metadata import decode

KEPT_CONNECTIONS = 16
"""Idle reading connections that are kept; each has two descriptors and a cache. Opening one takes half a
millisecond."""


class ReadingConnections:
    """The idle reading connections of all collections of a store, up to a limit.

    Beyond the limit, the connection that was idle longest is closed.
    """

    def __init__(self, most: int = KEPT_CONNECTIONS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: OrderedDict[sqlite3.Connection, ReaderPool] = OrderedDict()

    def __len__(self) -> int:
        """How many are idle."""
        return len(self._idle)

    def take(self, pool: ReaderPool) -> sqlite3.Connection | None:
        """The collection's most recently used idle connection, if it has any."""
        with self._lock:
            pool.used += 1
            pool.most_used = max(pool.most_used, pool.used)
            found = next((one for one, of in reversed(self._idle.items()) if of is pool), None)
            if found is not None:
                del self._idle[found]
            return found

    def give_back(self, connection: sqlite3.Connection | None, pool: ReaderPool) -> None:
        """Ends the use of a connection; ``connection`` is None if it could not be made.

        Keeps the connection, and closes the one idle longest if there are too many. If the collection was closed
        meanwhile, closes this one instead.
        """
        surplus = connection
        with self._lock:
            pool.used -= 1
            if connection is not None and not pool.closed:
                self._idle[connection] = pool
                surplus = self._idle.popitem(last=False)[0] if len(self._idle) > self._most else None
        if surplus is not None:
            surplus.close()

    def close(self, pool: ReaderPool) -> None:
        """Closes the idle connections of a collection now, and those in use when their use ends."""
        with self._lock:
            pool.closed = True
            idle = [one for one, of in self._idle.items() if of is pool]
            for connection in idle:
                del self._idle[connection]
        for connection in idle:
            connection.close()


class ReaderPool:
    """The reading connections of one collection, made when needed.

    Until the collection is closed, SQLite keeps as many descriptors of the database as connections were ever open at
    once, and reuses them.

    Attributes:
        closed: whether the collection is closed.
        used, most_used: connections in use now, and the most in use at once. ``ReadingConnections`` sets all three.
    """

    def __init__(self, path: Path, name: str, connections: ReadingConnections) -> None:
        self._path = path
        self._name = name
        self._connections = connections
        self.closed = False
        self.used = self.most_used = 0

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for a ``with`` block; raises errors inside the block as typed ones."""
        with translated(self._name):
            if self.closed:
                raise Unavailable(f"collection '{self._name}' is closed")
            connection = self._connections.take(self)
            try:
                connection = connection or schema.open_reader(self._path, self._name)
                yield connection
            finally:
                self._connections.give_back(connection, self)

    def close(self) -> None:
        """Closes idle connections now and busy ones when their call ends."""
        self._connections.close(self)


class RowReader(ABC):
    """The reads of one collection that need only its database."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """A reading connection for a ``with`` block."""

    def stream_position(self, stream: str) -> int:
        """The last position committed for a stream; 0 for an unknown one."""
        with self.reading() as connection:
            row = connection.execute("SELECT position, checksum FROM streams WHERE name = ?", (stream,)).fetchone()
        if row and stream_checksum(stream, row[0]) != row[1]:
            raise damaged(f"the position of stream {stream!r}")
        return int(row[0]) if row else 0

    def failures(self, stream: str, first: int, last: int) -> dict[int, DeadLetter]:
        """The recorded failures of a stream between two positions, both included, by position."""
        with self.reading() as connection:
            return dead_letters.of_stream(connection, stream, first, last)

    def dead_letters(self, after: int, limit: int) -> tuple[list[DeadLetter], int | None]:
        """Up to ``limit`` failures with a number above ``after``, oldest first, and the next ``after`` or None."""
        with self.reading() as connection:
            return dead_letters.page(connection, after, limit)

    def dead_letters_by_number(self, numbers: Sequence[int]) -> list[DeadLetter]:
        """The recorded failures that exist among these numbers, oldest first."""
        with self.reading() as connection:
            return dead_letters.by_number(connection, numbers)

    def unchanged(self, hashes: Mapping[str, bytes]) -> dict[str, int]:
        """The sequence of each document that is stored with the given content hash, by id."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT id, content_hash, sequence FROM documents WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(hashes), ensure_ascii=False),),
            ).fetchall()
        return {id: sequence for id, stored, sequence in rows if stored == hashes[id]}

    def keys(self, ids: Sequence[str]) -> dict[str, int]:
        """Document key of each id that exists."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT id, key FROM documents WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(ids), ensure_ascii=False),),
            )
            return dict(rows.fetchall())

    def documents_by_id(self, ids: Sequence[str], include: Include) -> dict[str, StoredDocument]:
        """The documents with these ids that exist, by id, with the include asked for."""
        with self.reading() as connection, _snapshot(connection):
            rows = connection.execute(
                f"SELECT {_columns(include)} FROM documents WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
                (json.dumps(list(ids), ensure_ascii=False),),
            ).fetchall()
            return {document.id: document for document in _assemble(connection, rows, include)}

    def documents(self, keys: Sequence[int], include: Include) -> dict[int, StoredDocument]:
        """The documents with these keys that still exist, by key, with the include asked for."""
        chosen = json.dumps([int(key) for key in keys])
        with self.reading() as connection, _snapshot(connection):
            rows = connection.execute(
                f"SELECT {_columns(include)} FROM documents WHERE key IN (SELECT value FROM json_each(?))",  # noqa: S608
                (chosen,),
            ).fetchall()
            return {document.key: document for document in _assemble(connection, rows, include)}

    def passages(
        self, labels: Sequence[int], *, vectors: bool = False, token_vectors: bool = False
    ) -> dict[int, StoredPassage]:
        """The passages with these labels that still exist, by label."""
        with self.reading() as connection:
            return _passages(connection, "label", labels, vectors=vectors, token_vectors=token_vectors)


def read_page(
    connection: sqlite3.Connection, condition: Condition | None, after: int, limit: int, include: Include
) -> tuple[list[StoredDocument], int | None]:
    """Documents that pass with a sequence above ``after``, by sequence, and the next page's ``after`` or None."""
    where = condition or Condition("1", ())
    with _snapshot(connection):
        rows = connection.execute(
            f"SELECT {_columns(include)} FROM documents WHERE sequence > ? AND {where.sql}"  # noqa: S608
            " ORDER BY sequence LIMIT ?",
            (after, *where.parameters, limit + 1),
        ).fetchall()
        documents = _assemble(connection, rows[:limit], include)
    return documents, documents[-1].sequence if len(rows) > limit else None


def select_keys(connection: sqlite3.Connection, condition: Condition, after: int = 0) -> NDArray[np.int64]:
    """Keys of the documents that pass with a sequence above ``after``, ascending, shape (n,)."""
    rows = connection.execute(
        f"SELECT key FROM documents WHERE sequence > ? AND {condition.sql}",  # noqa: S608
        (after, *condition.parameters),
    ).fetchall()
    return np.sort(np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows)))


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    # Two statements of one answer must see the same commit.
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def _columns(include: Include) -> str:
    metadata = "metadata, metadata_checksum" if include.metadata else "NULL, 0"
    text = "title, text, text_checksum" if include.text else "'', '', 0"
    identity = "content_hash, (SELECT checksum FROM identities WHERE identities.key = documents.key)"
    return f"key, id, sequence, passage_count, {metadata}, {text}, {identity}"


def _assemble(
    connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], include: Include
) -> list[StoredDocument]:
    passages: dict[int, list[StoredPassage]] = {}
    if include.passages or include.vectors:
        keys = [row[0] for row in rows]
        for passage in _passages(connection, "key", keys, vectors=include.vectors, token_vectors=False).values():
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
        for key, id, sequence, count, metadata, _, title, text, *_ in map(_checked_document, rows)
    ]


def _checked_document(row: tuple[Any, ...]) -> tuple[Any, ...]:
    key, id, sequence, count, metadata, metadata_checksum, title, text, checksum, content_hash, identity = row
    if document_checksum(key, id, sequence, count, content_hash) != identity:
        raise damaged(f"the identity of document {id!r}")
    if metadata is not None and zlib.crc32(metadata.encode()) != metadata_checksum:
        raise damaged(f"the metadata of document {id!r}")
    if (title or text or checksum) and text_checksum(title, text) != checksum:
        raise damaged(f"the text of document {id!r}")
    return row


def checked_vector(label: int, vector: bytes, checksum: int) -> NDArray[np.float32]:
    """A stored vector, shape (dimension,).

    Raises:
        DataCorrupted: the vector differs from what was stored.
    """
    if zlib.crc32(vector) != checksum:
        raise damaged(f"the vector of passage {label}")
    return np.frombuffer(vector, dtype=np.float32)


def damaged(what: str) -> DataCorrupted:
    """The error for a value that fails its checksum."""
    return DataCorrupted(f"{what} is damaged on disk; restore the collection from a backup")


def _passages(
    connection: sqlite3.Connection, column: str, values: Sequence[int], *, vectors: bool, token_vectors: bool
) -> dict[int, StoredPassage]:
    rows = connection.execute(
        "SELECT p.label, p.key, p.ordinal, p.start, p.end, p.tokens, p.row_checksum,"  # noqa: S608
        f" {'v.vector, v.checksum' if vectors else 'NULL, 0'}, {'t.vectors' if token_vectors else 'NULL'}"
        " FROM passages p"
        f" {'LEFT JOIN vectors v USING (label)' if vectors else ''}"
        f" {'LEFT JOIN token_vectors t USING (label)' if token_vectors else ''}"
        f" WHERE p.{column} IN (SELECT value FROM json_each(?)) ORDER BY p.label",
        (json.dumps([int(value) for value in values]),),
    )
    found = {}
    for label, key, ordinal, start, end, tokens, row_checksum, vector, checksum, packed in rows:
        if passage_checksum(label, key, ordinal, start, end, tokens) != row_checksum:
            raise damaged(f"the row of passage {label}")
        found[label] = StoredPassage(
            label=label,
            key=key,
            ordinal=ordinal,
            start=start,
            end=end,
            tokens=tokens,
            vector=None if vector is None else checked_vector(label, vector, checksum),
            token_vectors=packed,
        )
    return found
