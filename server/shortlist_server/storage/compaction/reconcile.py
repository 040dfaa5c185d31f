"""Compares the dense index with the database, and repairs the index while searches go on.

The invariant: the live passage ids in the database are those in the segments and the growing segment, each in one
place, and the manifest lists exactly the loaded segments. ``difference`` and ``reconcile`` run as tasks of the writer
thread, at a moment when the index shows exactly the changes that the task reads. Any thread may call them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.storage.compaction.recovery import LAST_PASSAGE_ID, live_passage_ids, read_growing, segment_rows
from shortlist_server.storage.rows.tables import tables_of
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.values import SegmentRow, Totals
from shortlist_server.storage.vectors.growing import GrowingSegment
from shortlist_server.storage.vectors.index import DenseIndex

Submit = Callable[[Task[Any]], Future[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the dense index differs from the database.

    Attributes:
        segment_passages, growing_passages: live rows in the index.
        problems: one line for each way in which they differ.
        unfit: uids of segments that lack passages of their range; their rows must be read from the database.
    """

    segment_passages: int
    growing_passages: int
    problems: tuple[str, ...]
    unfit: frozenset[str]


def difference(index: DenseIndex, generation: int, submit: Submit) -> Difference:
    """Compares the index of a generation with the database at one moment; commits wait meanwhile."""
    tables = tables_of(generation)

    def read(transaction: WriteTransaction) -> tuple[NDArray[np.int64], list[SegmentRow]]:
        connection = transaction.connection
        return live_passage_ids(connection, tables, 0, LAST_PASSAGE_ID), segment_rows(connection, generation)

    def compare(stored: tuple[NDArray[np.int64], list[SegmentRow]]) -> Difference:
        return _compare(index, *stored)

    found: Difference = submit(Task(read, compare)).result()
    return found


def reconcile(index: DenseIndex, generation: int, submit: Submit, dimension: int) -> list[str]:
    """Makes the index of a generation show what the database has; searches switch to a new snapshot.

    Drops segments that lack passages of their range, as a restart would, and moves their passages to the growing
    segment. A build that was to replace one of them ends in ``SegmentOutdated``.

    Returns:
        uids of the dropped segments; the caller may remove their folders.

    Raises:
        DataCorrupted: a vector in the database is damaged; the index is as it was.
    """
    tables = tables_of(generation)
    unfit = difference(index, generation, submit).unfit

    def read(transaction: WriteTransaction) -> tuple[list[SegmentRow], NDArray[np.int64], GrowingSegment, Totals]:
        connection, counters = transaction.connection, transaction.counters
        row = counters.find(generation)
        assert row is not None
        kept = _drop_rows(connection, generation, unfit)
        growing = read_growing(connection, tables, kept, dimension)
        return kept, live_passage_ids(connection, tables, 0, LAST_PASSAGE_ID), growing, counters.totals(row)

    def show(stored: tuple[list[SegmentRow], NDArray[np.int64], GrowingSegment, Totals]) -> list[str]:
        rows, live, growing, totals = stored
        kept = {row.uid for row in rows}
        loaded = {segment.row.uid for segment in index.snapshot.segments}
        index.restore(kept, live, growing, totals)
        return sorted((unfit | loaded) - kept)

    dropped: list[str] = submit(Task(read, show)).result()
    return dropped


def _drop_rows(connection: sqlite3.Connection, generation: int, uids: frozenset[str]) -> list[SegmentRow]:
    connection.executemany("DELETE FROM segments WHERE uid = ?", [(uid,) for uid in uids])
    return segment_rows(connection, generation)


def _compare(index: DenseIndex, stored: NDArray[np.int64], rows: list[SegmentRow]) -> Difference:
    snapshot = index.snapshot
    problems: list[str] = []
    unfit, overlapping, end = set(), 0, 0
    shown = {segment.row.uid: segment.passage_ids[segment.alive] for segment in snapshot.segments}
    for row in rows:
        held = shown.get(row.uid)
        inside = stored[(stored > row.low) & (stored <= row.high)]
        overlapping += row.low < end
        if held is None or row.low < end or len(np.setdiff1d(inside, held)):
            unfit.add(row.uid)
        else:
            end = row.high
    in_growing = snapshot.growing.live_passage_ids()
    held = np.concatenate([*shown.values(), in_growing])
    missing, extra = np.setdiff1d(stored, held), np.setdiff1d(held, stored)
    if [row.uid for row in rows] != list(shown):
        problems.append("the manifest names other segments than are loaded")
    if len(np.unique(held)) != len(held):
        problems.append("a passage is in two places")
    if len(missing):
        problems.append(f"{len(missing)} passages are in no index, first {missing[0]}")
    if len(extra):
        problems.append(f"{len(extra)} passages are indexed but not stored, first {extra[0]}")
    if overlapping:
        problems.append(f"{overlapping} segments overlap others")
    return Difference(
        segment_passages=sum(map(len, shown.values())),
        growing_passages=len(in_growing),
        problems=tuple(problems),
        unfit=frozenset(unfit),
    )
