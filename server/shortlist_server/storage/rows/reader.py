"""Reads a collection: its reading connections, and the queries on them.

Each call uses a connection of its own and then returns it. The connections kept for later calls are few, for all
collections together. Every call sees all that was committed before it began. Any thread may call.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import DeadLetter
from shortlist_server.errors import Unavailable
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.rows import dead_letters, schema
from shortlist_server.storage.rows.checksums import damaged, stream_checksum
from shortlist_server.storage.rows.filters import Condition

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


def select_keys(connection: sqlite3.Connection, condition: Condition, after: int = 0) -> NDArray[np.int64]:
    """Keys of the documents that pass with a sequence above ``after``, ascending, shape (n,)."""
    rows = connection.execute(
        f"SELECT key FROM documents WHERE sequence > ? AND {condition.sql}",  # noqa: S608
        (after, *condition.parameters),
    ).fetchall()
    return np.sort(np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows)))
