"""Verifies a collection: proves that it is sound, or names what is wrong.

- The database: SQLite's own check, the counts, and the checksum of every row.
- The segments: the checksum of every file.
- The invariant of the dense index: the live passage ids in the database are those in the segments and the growing
  segment, with none in two places. It is checked at one moment, on the writer thread.
- Reachability: a sample of each graph's vectors is searched for, because an undamaged graph can have rows that no
  search reaches. A search that ends far from its vector is damage. One that finds only near neighbours of its vector is
  not: a graph is approximate.

Any thread may call; a large collection takes minutes. Searches go on meanwhile. Commits wait while the lexical index
and the passage ids are compared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import NEVER, Cancellation, Vector
from shortlist_server.errors import GenerationNotFound, GenerationNotReady, OperationCancelled, ShortlistError
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.compactor import BuildFailed
from shortlist_server.storage.disk.interruption import interruptible
from shortlist_server.storage.layout import SEGMENTS_FOLDER
from shortlist_server.storage.reports import Check, CollectionReport
from shortlist_server.storage.rows.integrity import UNREPAIRABLE, database_checks, suffix
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.vectors.manifest import SegmentDamaged, check_folder
from shortlist_server.storage.vectors.segments import Segment, Unreachable

logger = logging.getLogger(__name__)

REACHABLE_SHARE = 0.98
"""Share of sampled vectors for which a search must find some of the nearest."""

_SAMPLE_EF = 100
_INVARIANT = "live labels = segments + growing segment, disjoint"

_LEXICAL_CHECKS = {"lexical index", "documents in the lexical index"}


def verify_collection(
    collection: EmbeddedCollection,
    *,
    sample: int = 200,
    repair: bool = False,
    progress: Callable[[str], None] = lambda step: None,
    cancellation: Cancellation = NEVER,
) -> CollectionReport:
    """Checks a collection; with ``repair``, rebuilds what can be rebuilt from the database and checks again.

    A cancelled verification stops before the next step. It never stops within a repair, whose changes are transactions.

    Args:
        sample: how many vectors of each segment to search for.
        progress: called with the name of each step before the step.

    Raises:
        Unavailable: the collection was closed meanwhile.
        OperationCancelled: the verification was cancelled.
    """

    def begin(step: str) -> None:
        cancellation.check()
        progress(step)

    report = _verified(collection, sample, begin, cancellation)
    if repair and not report.ok:
        begin("repair")
        failed = {check.name for check in report.checks if not check.ok}
        repairs: list[str] = []
        problem = ""
        try:
            _repair(collection, failed, repairs)
        except BuildFailed as error:
            problem = f"a segment could not be built: {error}"
        for one in repairs:
            # The report is lost if the verification is cancelled from here on.
            logger.warning("collection '%s' was repaired: %s", collection.name, one)
        report = _verified(collection, sample, begin, cancellation)
        report.repairs = repairs
        if problem:
            report.checks.append(Check(name="repair", ok=False, detail=problem))
    return report


def _repair(collection: EmbeddedCollection, failed: set[str], done: list[str]) -> None:
    """Drops generations that cannot be used or have damaged rows, and rebuilds what can be rebuilt for the others.

    Adds what it did to ``done``.

    Raises:
        BuildFailed: a segment could not be built; the others are not either.
    """
    serving = collection.generation
    for generation in collection.generations():
        name = suffix(generation.number, serving)
        if name and any(check + name in failed for check in UNREPAIRABLE):
            with suppress(GenerationNotFound, GenerationNotReady):
                collection.drop_generation(generation.number).result()
                done.append(f"generation {generation.number} was dropped; build it again")
    snapshots = collection.snapshots()
    done += collection.repair(
        lexical=not failed.isdisjoint(_LEXICAL_CHECKS),
        dense=[number for number in snapshots if _INVARIANT + suffix(number, serving) in failed],
        segments={
            number: [one for one in snapshot.segments if not failed.isdisjoint(_names(one))]
            for number, snapshot in snapshots.items()
        },
    )


def _segments(collection: EmbeddedCollection) -> list[Segment]:
    return [segment for snapshot in collection.snapshots().values() for segment in snapshot.segments]


def _verified(
    collection: EmbeddedCollection, sample: int, begin: Callable[[str], None], cancellation: Cancellation
) -> CollectionReport:
    info = collection.info()
    report = CollectionReport(name=info.name, documents=info.document_count, passages=info.passage_count)
    checks = report.checks
    snapshots = collection.snapshots()
    for damage in collection.damage:
        if damage.generation not in snapshots:
            continue
        growing = snapshots[damage.generation].growing
        exact = int((growing.alive & (growing.passage_ids > damage.low) & (growing.passage_ids <= damage.high)).sum())
        detail = f"{damage.problem}; {exact} of its passages are searched exactly until it is rebuilt"
        checks.append(Check(name=f"segment {damage.uid} at the start", ok=not exact, detail=detail))
    begin("database")
    try:
        with collection.reading() as connection, interruptible(connection, cancellation):
            checks += database_checks(connection)
    except OperationCancelled:
        raise
    except ShortlistError as error:
        checks.append(Check(name="database", ok=False, detail=error.message))
        return report
    begin("lexical index")
    checks.append(_check_lexical(collection))
    begin("segments")
    checks += _segment_checks(collection, cancellation)
    begin("invariant")
    for number in snapshots:
        checks += _check_invariant(collection, number, report)
    begin("reachability")
    for segment in _segments(collection):
        looked_up = _sample(segment, sample, cancellation)
        report.sampled += len(looked_up.rows)
        report.reached += int(looked_up.found.sum())
        checks.append(_check_reachability(segment, looked_up))
    return report


def _check_lexical(collection: EmbeddedCollection) -> Check:
    try:
        collection.run(Task(lambda transaction: transaction.check_lexical(), lambda _: None))
    except ShortlistError as error:
        return Check(name="lexical index", ok=False, detail=error.message)
    return Check(name="lexical index", ok=True)


def _segment_checks(collection: EmbeddedCollection, cancellation: Cancellation) -> Iterator[Check]:
    dimensions = {one.number: one.config.dimension for one in collection.generations()}
    for segment in _segments(collection):
        try:
            check_folder(
                collection.folder / SEGMENTS_FOLDER / segment.row.uid,
                segment.row,
                collection.uid,
                dimensions[segment.row.generation],
                cancellation,
            )
        except SegmentDamaged as error:
            # If a merge replaced the segment meanwhile, its files are rightly gone.
            if segment in _segments(collection):
                yield Check(name=f"segment {segment.row.uid}", ok=False, detail=str(error))
        else:
            yield Check(name=f"segment {segment.row.uid}", ok=True)


def _check_invariant(collection: EmbeddedCollection, number: int, report: CollectionReport) -> Iterator[Check]:
    serving = collection.generation
    try:
        found = collection.difference(number)
    except (GenerationNotFound, GenerationNotReady):
        return  # It was dropped meanwhile.
    if number == serving:
        report.segment_passages, report.growing_passages = found.segment_passages, found.growing_passages
    if found.problems and number not in collection.snapshots():
        return  # It was dropped meanwhile.
    name = _INVARIANT + suffix(number, serving)
    yield Check(name=name, ok=not found.problems, detail="; ".join(found.problems))


def _check_reachability(segment: Segment, sample: _Sample) -> Check:
    rows = max(1, len(sample.rows))
    lost, missed = int((~sample.near).sum()), int((sample.near & ~sample.found).sum())
    detail = f"searches for {lost} of {len(sample.rows)} vectors find none of the {_SAMPLE_EF} nearest" if lost else ""
    if missed:
        # Not damage: among many almost equal vectors, a graph finds only some.
        note = f"searches for {missed} find others as near that are not the vector itself"
        detail = f"{detail}; {note}" if detail else note
    return Check(
        name=f"segment {segment.row.uid}, reachability", ok=lost <= (1 - REACHABLE_SHARE) * rows, detail=detail
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Rows of a segment, and the results of a search for each row's own vector; arrays of shape (n,).

    Attributes:
        found: whether the search found the row, or only rows that are as near.
        near: whether it found at least one of the rows that are truly nearest; a graph may miss a few of them.
    """

    rows: NDArray[np.int64]
    found: NDArray[np.bool_]
    near: NDArray[np.bool_]


def _sample(segment: Segment, sample: int, cancellation: Cancellation = NEVER) -> _Sample:
    live = np.flatnonzero(segment.alive.copy())
    rows = np.random.default_rng(0).choice(live, min(sample, len(live)), replace=False)
    reached, near = np.zeros(len(rows), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
    for at, row in enumerate(rows):
        cancellation.check()
        vector = np.array(segment.vectors[row])
        try:
            found, scores = _nearest(segment, vector)
        except Unreachable:
            continue
        # Among many equal vectors, any is as good as the row itself.
        reached[at] = row in found or scores[-1] >= float(vector @ vector) - 1e-5
        near[at] = reached[at] or scores[0] >= _true_score(segment, vector) - 1e-5
    # Searches rightly miss rows that died meanwhile.
    alive = segment.alive[rows]
    return _Sample(rows[alive], reached[alive], near[alive])


def _true_score(segment: Segment, vector: Vector) -> float:
    """Cosine of the least near of the rows that an exact search would return."""
    scores = (segment.vectors @ vector)[segment.alive.copy()]
    return float(np.sort(scores)[-_SAMPLE_EF:][0]) if len(scores) else -np.inf


def _nearest(segment: Segment, vector: Vector) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows found and their cosines; asks for fewer rows if some died during the search."""
    while True:
        count = min(_SAMPLE_EF, segment.live)
        try:
            return segment.nearest(vector, count)
        except Unreachable:
            if segment.live >= count:
                raise


def _names(segment: Segment) -> tuple[str, str]:
    return f"segment {segment.row.uid}", f"segment {segment.row.uid}, reachability"
