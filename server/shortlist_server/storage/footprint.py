"""The size of passages on disk and in memory, computed from the formats. Pure functions; any thread.

SQLite fills a page with rows one after the other, because passages come in the order of their passage ids. A row too
large for a page keeps its beginning there and has the rest in overflow pages of its own
(https://www.sqlite.org/fileformat.html).
"""

from __future__ import annotations

from collections.abc import Sequence

from shortlist_server.storage.compaction.builder import LINKS
from shortlist_server.storage.rows.schema import PAGE_BYTES

_PAGE_HEADER = 8
_CELL_OVERHEAD = 8
"""About the bytes that a row takes beside its values: its place in the page, size, key and header of columns."""

_PASSAGE_ROW = 34
"""About the bytes of a row of ``passages`` with its entry in the index by key."""

_NODE_LINKS = 2 * LINKS * 4 + 4
_UPPER_LINKS = (LINKS * 4 + 4) / (LINKS - 1) + 4
"""Of a node on average: it lies on 1 / (LINKS - 1) further levels. Each node has a length field for them."""


def row_bytes(payload: int) -> float:
    """Bytes that a row of this size takes in a table, with its share of the page's empty end."""
    usable = PAGE_BYTES
    most_local = usable - 35
    cell: float = payload + _CELL_OVERHEAD
    overflow = 0
    if payload > most_local:
        least_local = (usable - 12) * 32 // 255 - 23
        local = least_local + (payload - least_local) % (usable - 4)
        local = local if local <= most_local else least_local
        overflow = -(-(payload - local) // (usable - 4))
        cell = local + 4 + _CELL_OVERHEAD
    return (usable / max((usable - _PAGE_HEADER) // cell, 1)) + overflow * usable


def disk_bytes(passages: int, dimension: int, token_vectors: Sequence[int], segments: bool) -> int:
    """The rows and segments of a generation.

    Args:
        token_vectors: bytes of the packed token vectors of some passages, as a sample; none where there are none.
        segments: whether there are enough passages that they will be flushed.
    """
    rows = _PASSAGE_ROW + row_bytes(4 * dimension + 6)
    if token_vectors:
        rows += sum(map(row_bytes, token_vectors)) / len(token_vectors)
    return round(passages * (rows + (_segment_row_bytes(dimension) if segments else 0)))


def memory_bytes(passages: int, dimension: int, segments: bool) -> int:
    """Bytes that searches keep in memory: the graph, the vectors mapped from their file, and the arrays beside them."""
    growing = 4 * dimension + 17
    return round(passages * (_segment_row_bytes(dimension) + 17 if segments else growing))


def _segment_row_bytes(dimension: int) -> float:
    """A row of a segment: a node of the graph with vector and passage id; vector, id and key in the other files."""
    return (_NODE_LINKS + 4 * dimension + 8 + _UPPER_LINKS) + (4 * dimension + 8 + 8)
