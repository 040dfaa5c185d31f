"""A cache of query embeddings, bounded in bytes; it drops the least recently used first. Any thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from shortlist_server.inference.base import QueryEmbedding

DEFAULT_CACHE_BYTES = 32 * 1024 * 1024
_ENTRY_BYTES = 400


class QueryKey(NamedTuple):
    """What determines a query's embedding."""

    revision: str
    instruction: str
    text: str
    dimension: int


class QueryCache:
    """Query embeddings by key. Callers share the arrays, which are made read-only."""

    def __init__(self, max_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[QueryKey, QueryEmbedding] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = 0

    @property
    def counts(self) -> tuple[int, int]:
        """Hits and misses of ``get``."""
        return self._hits, self._misses

    def get(self, key: QueryKey) -> QueryEmbedding | None:
        """The embedding, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
                self._entries.move_to_end(key)
            return found

    def put(self, key: QueryKey, embedding: QueryEmbedding) -> None:
        """Stores an embedding, unless it is larger than the whole cache."""
        embedding.vector.setflags(write=False)
        if embedding.token_vectors is not None:
            embedding.token_vectors.setflags(write=False)
        size = _size(key, embedding)
        with self._lock:
            if size > self._max_bytes or key in self._entries:
                return
            self._entries[key] = embedding
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= _size(*self._entries.popitem(last=False))


def _size(key: QueryKey, embedding: QueryEmbedding) -> int:
    tokens = embedding.token_vectors.nbytes if embedding.token_vectors is not None else 0
    return _ENTRY_BYTES + 4 * (len(key.text) + len(key.instruction)) + embedding.vector.nbytes + tokens
