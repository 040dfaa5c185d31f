"""A sample of each collection's recent queries, for comparing generations; only where the operator asked for it.

The sample exists in memory alone. No log line, metric or file has a query of it. The server forgets a query after an
hour, and all queries of a collection with the collection. All methods belong to the server's event loop.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from shortlist_server.domain import Filter, SearchRequest
from shortlist_server.pipeline.reservoir import Reservoir
from shortlist_server.storage.base import CollectionStore

KEPT_SECONDS = 3600.0
"""Age at which a query is forgotten."""

PURGE_SECONDS = 60.0
"""Time between two searches for queries that are too old."""

MAX_CHARACTERS = 2000
"""A query or a filter that is longer than this, as text, is not kept: it could take megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentQuery:
    """A caller's query, with its instruction ("" for the collection's) and its filter."""

    text: str
    instruction: str = ""
    filter: Filter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    query: RecentQuery
    seconds: float


class RecentQueries:
    """Keeps up to a number of queries for each collection."""

    def __init__(self, size: int) -> None:
        """``size``: queries to keep of each collection; 0 keeps none."""
        self._size = size
        # An entry goes with its collection: one that is dropped and created again starts afresh.
        self._kept: WeakKeyDictionary[CollectionStore, Reservoir[_Kept]] = WeakKeyDictionary()
        self._purging: asyncio.TimerHandle | None = None

    @property
    def enabled(self) -> bool:
        """Whether queries are kept at all."""
        return self._size > 0

    def note(self, collection: CollectionStore, request: SearchRequest) -> None:
        """Notes an answered search, and may keep its query; never one that has only a vector."""
        if not self._size or not request.text:
            return
        kept = self._kept.get(collection)
        if kept is None:
            kept = self._kept[collection] = Reservoir(self._size)
        if not kept.wants() or len(request.text) + len(request.instruction) > MAX_CHARACTERS:
            return
        if request.filter is not None and len(repr(request.filter)) > MAX_CHARACTERS:
            return
        query = RecentQuery(text=request.text, instruction=request.instruction, filter=request.filter)
        kept.add(_Kept(query=query, seconds=time.monotonic()))
        if self._purging is None:
            self._purging = asyncio.get_running_loop().call_later(PURGE_SECONDS, self._purge)

    def some(self, collection: CollectionStore, count: int) -> list[RecentQuery]:
        """Up to ``count`` distinct queries at random, none older than an hour."""
        kept = self._kept.get(collection)
        if kept is None:
            return []
        _forget_old(kept)
        distinct = {repr(one.query): one.query for one in kept.some(self._size)}
        return list(distinct.values())[:count]

    def _purge(self) -> None:
        self._purging = None
        for kept in list(self._kept.values()):
            _forget_old(kept)
        if any(kept.items for kept in self._kept.values()):
            self._purging = asyncio.get_running_loop().call_later(PURGE_SECONDS, self._purge)


def _forget_old(kept: Reservoir[_Kept]) -> None:
    oldest = time.monotonic() - KEPT_SECONDS
    kept.items[:] = [one for one in kept.items if one.seconds >= oldest]
