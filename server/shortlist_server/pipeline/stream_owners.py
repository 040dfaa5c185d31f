"""Remembers which client opened each named stream last, and which clients lost it.

A client whose connection is broken when it loses the name does not learn of it, and opens the stream again. Without
this record it would take the name back from the newer client. The record is in memory and bounded. Belongs to the
server's event loop.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_STREAMS = 10_000
"""Streams that are remembered; the one not opened for longest is forgotten first."""

MAX_LOSERS = 16
"""Clients that are remembered for each stream."""


class StreamOwners:
    """The clients that had each stream, by the ids of their runs, in order."""

    def __init__(self) -> None:
        self._runs: OrderedDict[tuple[str, str], list[str]] = OrderedDict()

    def lost(self, collection: str, stream: str, run_id: str) -> bool:
        """Whether another client opened the stream after this one."""
        return bool(run_id) and run_id in self._runs.get((collection, stream), ())[:-1]

    def opened(self, collection: str, stream: str, run_id: str) -> None:
        """The client has the stream now. An empty id is never the same client's."""
        runs = self._runs.pop((collection, stream), [])
        if not run_id or runs[-1:] != [run_id]:
            runs = [*runs[-MAX_LOSERS:], run_id]
        self._runs[collection, stream] = runs
        if len(self._runs) > MAX_STREAMS:
            self._runs.popitem(last=False)
