"""Proves that a collection is what it should be, or names what is wrong.

The database is checked by SQLite itself, by counting, and by the checksum of every vector and text; the segments file
by file; and the invariant of the dense index, that the live labels in the database are those in segments and tail with
none in two places, at one moment on the writer thread. A sample of vectors is looked up by itself in each graph,
because a graph can be whole and still have rows that no search reaches: a search that ends far from where it should is
damage, one that finds near neighbours of the vector and not the vector is as approximate as a graph is. Any thread may
call; a large collection takes minutes. Searches go on meanwhile; commits wait while the lexical index and the labels
are compared.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Vector
from shortlist_server.errors import ShortlistError
from shortlist_server.storage.collection import SEGMENTS_FOLDER, EmbeddedCollection
from shortlist_server.storage.manifest import SegmentDamaged, check_folder
from shortlist_server.storage.segments import Segment, Unreachable
from shortlist_server.storage.writer import Task

REACHABLE_SHARE = 0.98
"""Share of sampled vectors for which a search must find some of the nearest."""

_SAMPLE_BREADTH = 100
_INVARIANT = "live labels = segments + tail, disjoint"

_COUNTS = {
    "documents counted": ("SELECT documents FROM counters", "SELECT count(*) FROM documents"),
    "passages counted": ("SELECT passages FROM counters", "SELECT count(*) FROM passages"),
    "passages of all documents": ("SELECT count(*) FROM passages", "SELECT sum(passage_count) FROM documents"),
    "documents of all passages": (
        "SELECT count(*) FROM passages",
        "SELECT count(*) FROM passages JOIN documents USING (key)",
    ),
    "vectors": ("SELECT count(*) FROM passages", "SELECT count(*) FROM passages JOIN vectors USING (label)"),
    "vectors without a passage": ("SELECT count(*) FROM passages", "SELECT count(*) FROM vectors"),
    "documents in the lexical index": ("SELECT count(*) FROM documents", "SELECT count(*) FROM lexical_docsize"),
}
_LEXICAL_CHECKS = {"lexical index", "documents in the lexical index"}
_UNUSED = {
    "labels": ("SELECT next_label FROM counters", "SELECT max(label) FROM passages"),
    "keys": ("SELECT next_key FROM counters", "SELECT max(key) FROM documents"),
    "sequences": ("SELECT sequence + 1 FROM counters", "SELECT max(sequence) FROM documents"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was checked, and what was found. ``detail`` is a sentence when it does not hold."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class CollectionReport:
    """What a verification found.

    Attributes:
        sampled: vectors that were looked up by themselves.
        reached: those that were found.
        repairs: what ``repair`` did.
    """

    name: str
    documents: int = 0
    passages: int = 0
    segment_passages: int = 0
    tail_passages: int = 0
    sampled: int = 0
    reached: int = 0
    checks: list[Check] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def problems(self) -> list[str]:
        """What does not hold, a line each."""
        return [f"{check.name}: {check.detail}" for check in self.checks if not check.ok]


def verify_collection(
    collection: EmbeddedCollection,
    *,
    sample: int = 200,
    repair: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> CollectionReport:
    """Checks a collection; with ``repair``, rebuilds what can be rebuilt from the database and checks again.

    Args:
        sample: vectors of each segment to look up by themselves.
        progress: called with the name of each step before it.

    Raises:
        Unavailable: the collection was closed meanwhile.
    """
    report = _verified(collection, sample, progress)
    if repair and not report.ok:
        progress("repair")
        failed = {check.name for check in report.checks if not check.ok}
        repairs = collection.repair(
            lexical=not failed.isdisjoint(_LEXICAL_CHECKS),
            dense=_INVARIANT in failed,
            segments=[one for one in collection.view.segments if not failed.isdisjoint(_names(one))],
        )
        report = _verified(collection, sample, progress)
        report.repairs = repairs
    return report


def _verified(collection: EmbeddedCollection, sample: int, progress: Callable[[str], None]) -> CollectionReport:
    info = collection.info()
    report = CollectionReport(name=info.name, documents=info.document_count, passages=info.passage_count)
    checks = report.checks
    tail = collection.view.tail
    for damage in collection.damage:
        exact = int((tail.alive & (tail.labels > damage.low) & (tail.labels <= damage.high)).sum())
        detail = f"{damage.problem}; {exact} of its passages are searched exactly until it is rebuilt"
        checks.append(Check(name=f"segment {damage.uid} at the start", ok=not exact, detail=detail))
    progress("database")
    try:
        with collection.reading() as connection:
            checks += _database_checks(connection)
    except ShortlistError as error:
        checks.append(Check(name="database", ok=False, detail=error.message))
        return report
    progress("lexical index")
    checks.append(_check_lexical(collection))
    progress("segments")
    checks += _segment_checks(collection)
    progress("invariant")
    checks.append(_check_invariant(collection, report))
    progress("reachability")
    for segment in collection.view.segments:
        looked_up = _sample(segment, sample)
        report.sampled += len(looked_up.rows)
        report.reached += int(looked_up.found.sum())
        checks.append(_check_reachability(segment, looked_up))
    return report


def _database_checks(connection: sqlite3.Connection) -> Iterator[Check]:
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
    yield Check(name="database pages", ok=found == ["ok"], detail="; ".join(found)[:500])
    connection.execute("BEGIN")
    try:
        for name, (left, right) in _COUNTS.items():
            a, b = (connection.execute(sql).fetchone()[0] or 0 for sql in (left, right))
            yield Check(name=name, ok=a == b, detail=f"{a} expected, {b} found")
        for name, (left, right) in _UNUSED.items():
            following, last = (connection.execute(sql).fetchone()[0] or 0 for sql in (left, right))
            yield Check(name=f"{name} not given out twice", ok=last < following, detail=f"{last} is in use")
        bad = [
            label
            for label, vector, checksum in connection.execute("SELECT label, vector, checksum FROM vectors")
            if zlib.crc32(vector) != checksum
        ]
        yield Check(name="checksums of vectors", ok=not bad, detail=f"damaged: passages {bad[:10]}")
        # As bytes: a text may be damaged so that it is none.
        texts = connection.execute(
            "SELECT key, CAST(metadata AS BLOB), metadata_checksum, CAST(title AS BLOB), CAST(text AS BLOB),"
            " text_checksum FROM documents"
        )
        bad = [
            key
            for key, metadata, metadata_checksum, title, text, checksum in texts
            if zlib.crc32(metadata) != metadata_checksum or zlib.crc32(text, zlib.crc32(title)) != checksum
        ]
        yield Check(name="checksums of documents", ok=not bad, detail=f"damaged: documents {bad[:10]}")
    finally:
        connection.execute("COMMIT")


def _check_lexical(collection: EmbeddedCollection) -> Check:
    try:
        collection.run(Task(lambda truth: truth.check_lexical(), lambda _: None))
    except ShortlistError as error:
        return Check(name="lexical index", ok=False, detail=error.message)
    return Check(name="lexical index", ok=True)


def _segment_checks(collection: EmbeddedCollection) -> Iterator[Check]:
    for segment in collection.view.segments:
        try:
            check_folder(
                collection.folder / SEGMENTS_FOLDER / segment.row.uid,
                segment.row,
                collection.uid,
                collection.config.dimension,
            )
        except SegmentDamaged as error:
            # Replaced meanwhile by a merge, its files are rightly gone.
            if segment in collection.view.segments:
                yield Check(name=f"segment {segment.row.uid}", ok=False, detail=str(error))
        else:
            yield Check(name=f"segment {segment.row.uid}", ok=True)


def _check_invariant(collection: EmbeddedCollection, report: CollectionReport) -> Check:
    found = collection.difference()
    report.segment_passages, report.tail_passages = found.segment_passages, found.tail_passages
    return Check(name=_INVARIANT, ok=not found.problems, detail="; ".join(found.problems))


def _check_reachability(segment: Segment, sample: _Sample) -> Check:
    rows = max(1, len(sample.rows))
    lost, missed = int((~sample.near).sum()), int((sample.near & ~sample.found).sum())
    detail = (
        f"searches for {lost} of {len(sample.rows)} vectors find none of the {_SAMPLE_BREADTH} nearest" if lost else ""
    )
    if missed:
        # Not damage: in a crowd of all but equal vectors, a graph finds some and not all.
        note = f"searches for {missed} find others as near that are not the vector itself"
        detail = f"{detail}; {note}" if detail else note
    return Check(
        name=f"segment {segment.row.uid}, reachability", ok=lost <= (1 - REACHABLE_SHARE) * rows, detail=detail
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Rows of a segment, and how the search for each by its own vector ended; arrays of shape (n,).

    Attributes:
        found: it found the row, or nothing but rows that are as near.
        near: it found some of the rows that are nearest in truth, among which a graph may miss a few.
    """

    rows: NDArray[np.int64]
    found: NDArray[np.bool_]
    near: NDArray[np.bool_]


def _sample(segment: Segment, sample: int) -> _Sample:
    live = np.flatnonzero(segment.alive.copy())
    rows = np.random.default_rng(0).choice(live, min(sample, len(live)), replace=False)
    reached, near = np.zeros(len(rows), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
    for at, row in enumerate(rows):
        vector = np.array(segment.vectors[row])
        try:
            found, scores = _nearest(segment, vector)
        except Unreachable:
            continue
        # Among many equal vectors any is as good as itself.
        reached[at] = row in found or scores[-1] >= float(vector @ vector) - 1e-5
        near[at] = reached[at] or scores[0] >= _true_score(segment, vector) - 1e-5
    # What died meanwhile is rightly found no more.
    alive = segment.alive[rows]
    return _Sample(rows[alive], reached[alive], near[alive])


def _true_score(segment: Segment, vector: Vector) -> float:
    """Cosine of the last of the rows that are nearest in truth, which are as many as a search is asked for."""
    scores = (segment.vectors @ vector)[segment.alive.copy()]
    return float(np.sort(scores)[-_SAMPLE_BREADTH:][0]) if len(scores) else -np.inf


def _nearest(segment: Segment, vector: Vector) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows found; asks for fewer where there are fewer since the question was put."""
    while True:
        breadth = min(_SAMPLE_BREADTH, segment.live)
        try:
            return segment.nearest(vector, breadth)
        except Unreachable:
            if segment.live >= breadth:
                raise


def _names(segment: Segment) -> tuple[str, str]:
    return f"segment {segment.row.uid}", f"segment {segment.row.uid}, reachability"
