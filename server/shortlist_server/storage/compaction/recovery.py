"""Loads the index when a collection opens: the good segments, and all other passages into the growing segment.

Compares every manifest row with its folder, checksum by checksum, and the passage ids of each good segment with the
database. Drops a segment that fails: its rows come back from the database into the growing segment, and a build follows
later. Runs before the writer thread starts.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import DataCorrupted
from shortlist_server.storage.disk import descriptors
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.layout import SEGMENTS_FOLDER
from shortlist_server.storage.rows.documents import checked_vector
from shortlist_server.storage.rows.schema import FIRST_FORMAT_WITH_GENERATIONS
from shortlist_server.storage.rows.tables import Tables, tables_of
from shortlist_server.storage.values import SegmentRow
from shortlist_server.storage.vectors.growing import GrowingSegment
from shortlist_server.storage.vectors.manifest import SegmentDamaged
from shortlist_server.storage.vectors.segments import Segment

logger = logging.getLogger(__name__)

LAST_PASSAGE_ID = (1 << 63) - 1
"""The largest possible passage id."""

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A dropped segment: what was wrong with it, whose passages it had, and the range of its passage ids."""

    uid: str
    generation: int
    problem: str
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recovered:
    """Segments in the order of their ranges, the growing segment, and what was wrong with the dropped segments."""

    segments: tuple[Segment, ...]
    growing: GrowingSegment
    damage: tuple[Damage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the passages and segments of one generation are, and what the segments must say of themselves.

    Attributes:
        folder: the collection's folder.
        name: the collection's name.
        uid: the collection's identity, which its segments carry.
        generation: the generation's number.
        dimension: size of its vectors.
    """

    folder: Path
    name: str
    uid: str
    generation: int
    dimension: int


def remove_leftovers(connection: sqlite3.Connection, folder: Path, files: Files) -> None:
    """Removes the folders of segments that the manifest does not name, from a collection's folder."""
    segments_folder = folder / SEGMENTS_FOLDER
    named = {row.uid for row in segment_rows(connection)}
    if not segments_folder.is_dir():
        # Its content can be rebuilt, and tools that copy folders may skip an empty one.
        files.make_folder(segments_folder)
        files.sync_folder(folder)
    for path in segments_folder.iterdir():
        if path.name not in named:
            files.remove_tree(path)


def recover(connection: sqlite3.Connection, place: Place, files: Files) -> Recovered:
    """Loads the good segments of a generation and drops the others.

    Raises:
        DataCorrupted: the database itself is damaged.
        Overloaded: the limit of open files is reached; no segment was dropped for that.
    """
    name, segments_folder = place.name, place.folder / SEGMENTS_FOLDER
    tables = tables_of(place.generation)
    rows = segment_rows(connection, place.generation)
    good: list[Segment] = []
    damage: list[Damage] = []
    # The pool starts no thread without a segment; most collections of a server with very many have none.
    with ThreadPoolExecutor(2, thread_name_prefix="recover") as pool:
        # Checksums are computed in parallel; only the load of the graph holds the interpreter lock.
        loads = [pool.submit(Segment.load, segments_folder / row.uid, row, place.uid, place.dimension) for row in rows]
        for row, load in zip(rows, loads, strict=True):
            try:
                segment = load.result()
                if good and row.low < good[-1].row.high:
                    raise SegmentDamaged("its range overlaps another segment's")
                if not segment.keep_only(live_passage_ids(connection, tables, row.low, row.high)):
                    raise SegmentDamaged("it lacks passages that the database has in its range")
            except SegmentDamaged as error:
                if descriptors.are_exhausted():
                    # The files may be good; they could not be opened now.
                    raise descriptors.exhausted(name) from error
                damage.append(
                    Damage(uid=row.uid, generation=row.generation, problem=str(error), low=row.low, high=row.high)
                )
                logger.warning("collection %s: dropped segment %s, which will be rebuilt: %s", name, row.uid, error)
                connection.execute("DELETE FROM segments WHERE uid = ?", (row.uid,))
                files.remove_tree(segments_folder / row.uid)
            else:
                good.append(segment)
    growing = read_growing(connection, tables, [segment.row for segment in good], place.dimension)
    return Recovered(segments=tuple(good), growing=growing, damage=tuple(damage))


def read_growing(
    connection: sqlite3.Connection, tables: Tables, segments: Sequence[SegmentRow], dimension: int
) -> GrowingSegment:
    """The growing segment: all passages outside the ranges of ``segments``, which ascend and do not overlap.

    Raises:
        DataCorrupted: a passage's vector is missing or damaged.
    """
    growing = GrowingSegment(dimension)
    low = 0
    for high, after in [*((row.low, row.high) for row in segments), (LAST_PASSAGE_ID, 0)]:
        if high > low:
            _fill(growing, connection, tables, low, high, dimension)
        low = after
    return growing


def segment_rows(connection: sqlite3.Connection, generation: int | None = None) -> list[SegmentRow]:
    """The segments of a generation, or of all, that a database of any format lists; ordered by range."""
    (format,) = connection.execute("PRAGMA user_version").fetchone()
    column = "generation" if format >= FIRST_FORMAT_WITH_GENERATIONS else "1"
    rows = connection.execute(
        f"SELECT uid, {column}, low, high, passages, checksum FROM segments WHERE {column} = ifnull(?, {column})"  # noqa: S608
        " ORDER BY low, high",
        (generation,),
    )
    return [SegmentRow(uid=r[0], generation=r[1], low=r[2], high=r[3], passages=r[4], checksum=r[5]) for r in rows]


def live_passage_ids(connection: sqlite3.Connection, tables: Tables, low: int, high: int) -> NDArray[np.int64]:
    """Passage ids of the live passages with ``low < passage_id <= high``, ascending, shape (n,)."""
    rows = connection.execute(
        f"SELECT label FROM {tables.passages} WHERE label > ? AND label <= ? ORDER BY label",  # noqa: S608
        (low, high),
    ).fetchall()
    return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))


def _fill(
    growing: GrowingSegment, connection: sqlite3.Connection, tables: Tables, low: int, high: int, dimension: int
) -> None:
    cursor = connection.execute(
        f"SELECT label, key, vector, checksum FROM {tables.passages} LEFT JOIN {tables.vectors} USING (label)"  # noqa: S608
        " WHERE label > ? AND label <= ? ORDER BY label",
        (low, high),
    )
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        for passage_id, _, vector, _ in rows:
            if vector is None or len(vector) != 4 * dimension:
                raise DataCorrupted(f"passage {passage_id} has no vector of {dimension} dimensions; restore a backup")
        growing.append(
            [row[0] for row in rows],
            [row[1] for row in rows],
            [checked_vector(row[0], row[2], row[3]) for row in rows],
        )
