"""Compares the dense index with the database, and makes it agree again while searches go on.

The invariant: the live labels in the database are those in segments and tail, with none in two places, and the manifest
names the segments that are loaded. ``difference`` and ``reconcile`` each run as tasks of the writer thread, at a moment
when the index shows exactly the changes that the task reads; any thread may call them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_server.storage.compaction.recovery import LAST_LABEL, live_labels, read_tail, segment_rows
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.values import Counters, SegmentRow
from shortlist_server.storage.vectors.growing import Tail
from shortlist_server.storage.vectors.index import DenseIndex

Submit = Callable[[Task[Any]], Future[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What the dense index shows beside what the database has.

    Attributes:
        segment_passages, tail_passages: live rows shown.
        problems: a sentence for each way in which they differ.
        unfit: uids of segments that cannot show their range as it is; their rows must be read from the database.
    """

    segment_passages: int
    tail_passages: int
    problems: tuple[str, ...]
    unfit: frozenset[str]


def difference(index: DenseIndex, submit: Submit) -> Difference:
    """Compares the index with the database at one moment; commits wait meanwhile."""

    def read(transaction: WriteTransaction) -> tuple[NDArray[np.int64], list[SegmentRow]]:
        return live_labels(transaction.connection, 0, LAST_LABEL), segment_rows(transaction.connection)

    def compare(stored: tuple[NDArray[np.int64], list[SegmentRow]]) -> Difference:
        return _compare(index, *stored)

    found: Difference = submit(Task(read, compare)).result()
    return found


def reconcile(index: DenseIndex, submit: Submit, dimension: int) -> list[str]:
    """Makes the index show what the database has; searches see it from one view to the next.

    Segments that cannot show their range are forgotten, as they would be by a restart, and their passages go to the
    tail. A build that was to replace one of them ends in ``SegmentOutdated``.

    Returns:
        uids of the segments that were forgotten; their folders may go.

    Raises:
        DataCorrupted: a vector in the database is damaged; the index is as it was.
    """
    unfit = difference(index, submit).unfit

    def read(transaction: WriteTransaction) -> tuple[list[SegmentRow], NDArray[np.int64], Tail, Counters]:
        kept = _drop_rows(transaction.connection, unfit)
        tail = read_tail(transaction.connection, kept, dimension)
        return kept, live_labels(transaction.connection, 0, LAST_LABEL), tail, transaction.counters

    def show(stored: tuple[list[SegmentRow], NDArray[np.int64], Tail, Counters]) -> list[str]:
        rows, live, tail, counters = stored
        kept = {row.uid for row in rows}
        loaded = {segment.row.uid for segment in index.view.segments}
        index.restore(kept, live, tail, counters)
        return sorted((unfit | loaded) - kept)

    forgotten: list[str] = submit(Task(read, show)).result()
    return forgotten


def _drop_rows(connection: sqlite3.Connection, uids: frozenset[str]) -> list[SegmentRow]:
    connection.executemany("DELETE FROM segments WHERE uid = ?", [(uid,) for uid in uids])
    return segment_rows(connection)


def _compare(index: DenseIndex, stored: NDArray[np.int64], rows: list[SegmentRow]) -> Difference:
    view = index.view
    problems: list[str] = []
    unfit, overlapping, end = set(), 0, 0
    shown = {segment.row.uid: segment.labels[segment.alive] for segment in view.segments}
    for row in rows:
        held = shown.get(row.uid)
        inside = stored[(stored > row.low) & (stored <= row.high)]
        overlapping += row.low < end
        if held is None or row.low < end or len(np.setdiff1d(inside, held)):
            unfit.add(row.uid)
        else:
            end = row.high
    in_tail = view.tail.labels[view.tail.alive]
    held = np.concatenate([*shown.values(), in_tail])
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
        tail_passages=len(in_tail),
        problems=tuple(problems),
        unfit=frozenset(unfit),
    )
