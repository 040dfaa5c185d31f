"""Finds the nearest passages of a snapshot.

Each source (a segment, or the growing segment) answers with its own best rows. It asks its graph, scans the rows that
pass the filter, or asks the graph for more rows and drops those that do not pass, whichever costs least for the true
number of matches. The answers are merged down to the score where the first incomplete answer ends, and the search is
widened until it covers enough distinct documents. Takes no lock; any thread may search a ``Snapshot``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import DenseCandidates, DenseSource, DenseStrategy, Vector
from shortlist_server.storage.vectors.growing import GrowingSnapshot
from shortlist_server.storage.vectors.segments import Segment, Unreachable
from shortlist_server.storage.vectors.selection import KeySelection

DEFAULT_EF = 128
"""The least number of rows a graph is asked for.

On 200,000 rows in clusters of 100, recall at 10 was 0.973 with 64, 0.990 with 100 and 0.997 with 128, at 0.21, 0.31 and
0.34 ms: misses are whole clusters.
"""

# Costs in microseconds, measured on 384 dimensions; only their ratios matter.
_GATHER_ROW = 0.17
_SCAN_ROW = 0.08
_GRAPH_ROW = 2.0
_GRAPH_FIXED = 80.0
_ROWS_AT_ONCE = 8192
_WORTH_A_THREAD = 20_000

_SEVERITY = [DenseStrategy.EXACT, DenseStrategy.HNSW, DenseStrategy.HNSW_OVERFETCH, DenseStrategy.EXACT_FALLBACK]

Source = Segment | GrowingSnapshot


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """All that a dense search reads. The writer thread replaces it as a whole.

    Attributes:
        segments: in the order of their ranges.
        documents, passages: numbers of live ones.
    """

    sequence: int
    segments: tuple[Segment, ...]
    growing: GrowingSnapshot
    documents: int
    passages: int

    @property
    def sources(self) -> tuple[Source, ...]:
        """The segments, and the growing segment if it has rows."""
        return (*self.segments, self.growing) if len(self.growing.passage_ids) else self.segments


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One source's answer, best first.

    Attributes:
        complete: whether it has no further row that is alive and passes.
        matches: number of its rows that pass the filter, dead ones included; None without a filter.
        ef: rows its graph was asked for; 0 when it was not asked.
    """

    source: Source
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    complete: bool
    strategy: DenseStrategy
    matches: int | None = None
    ef: int = 0

    def account(self) -> DenseSource:
        """How the search asked the source."""
        return DenseSource(
            name="growing" if isinstance(self.source, GrowingSnapshot) else self.source.row.uid,
            passages=len(self.source.passage_ids),
            matches=self.matches,
            ef=self.ef,
            found=len(self.rows),
            strategy=self.strategy,
        )


def search(
    snapshot: Snapshot,
    vector: Vector,
    documents: int,
    selection: KeySelection | None,
    *,
    ef: int,
    exact: bool,
    pool: ThreadPoolExecutor | None,
) -> DenseCandidates:
    """The nearest live passages, enough to cover ``documents`` distinct documents, or all that exist or pass."""
    available = snapshot.documents if selection is None else min(selection.matches, snapshot.documents)
    if documents <= 0 or available <= 0:
        return _candidates([], 0, DenseStrategy.EXACT)[0]
    wanted = math.ceil(min(documents, available) * max(1.0, snapshot.passages / max(1, snapshot.documents)))
    sources = snapshot.sources

    def ask(source: Source) -> _Part:
        return _nearest(source, vector, wanted, ef, selection, exact)

    while True:
        parts = _ask_all(ask, sources, None if exact else pool)
        strategy = max((part.strategy for part in parts), key=_SEVERITY.index, default=DenseStrategy.EXACT)
        candidates, covered = _candidates(parts, documents, strategy)
        if covered >= min(documents, available) or all(part.complete for part in parts):
            return dataclasses.replace(candidates, asked=wanted, sources=[part.account() for part in parts])
        wanted *= 4


def score_documents(snapshot: Snapshot, vector: Vector, keys: Sequence[int]) -> DenseCandidates:
    """All live passages of some documents with their exact cosine, best first."""
    wanted = np.unique(np.asarray(keys, dtype=np.int64))
    parts = []
    for source in snapshot.sources:
        rows = source.rows_of(wanted)
        if len(rows):
            parts.append(_best(source, rows, source.vectors[rows] @ vector, len(rows), DenseStrategy.EXACT))
    return _candidates(parts, len(wanted) + 1, DenseStrategy.EXACT)[0]


def _ask_all(ask: Callable[[Source], _Part], sources: Sequence[Source], pool: ThreadPoolExecutor | None) -> list[_Part]:
    graphs = [one for one in sources if isinstance(one, Segment) and len(one.passage_ids) >= _WORTH_A_THREAD]
    if pool is None or len(graphs) < 2:
        return [ask(source) for source in sources]
    others = [pool.submit(ask, source) for source in graphs[1:]]
    mine = [ask(source) for source in sources if source not in graphs[1:]]
    return mine + [other.result() for other in others]


def _nearest(
    source: Source, vector: Vector, wanted: int, ef: int, selection: KeySelection | None, exact: bool
) -> _Part:
    if selection is None:
        if exact or isinstance(source, GrowingSnapshot) or source.live <= wanted:
            return _scan(source, vector, None, wanted, DenseStrategy.EXACT)
        return _walk(source, vector, wanted, ef)
    rows = selection.rows(source)
    if exact or isinstance(source, GrowingSnapshot):
        part = _scan(source, vector, rows, wanted, DenseStrategy.EXACT)
    else:
        part = _filtered(source, vector, wanted, ef, selection, rows)
    return dataclasses.replace(part, matches=len(rows))


def _walk(segment: Segment, vector: Vector, wanted: int, ef: int) -> _Part:
    asked = min(max(wanted, ef), segment.live)
    if asked * _GRAPH_ROW > len(segment.passage_ids) * _SCAN_ROW:
        return _scan(segment, vector, None, wanted, DenseStrategy.EXACT)
    try:
        rows, scores = segment.nearest(vector, asked)
    except Unreachable:
        return _scan(segment, vector, None, wanted, DenseStrategy.EXACT_FALLBACK, asked)
    rows, scores = rows[:asked], scores[:asked]
    return _Part(segment, rows, scores, len(rows) >= segment.live, DenseStrategy.HNSW, ef=asked)


def _filtered(
    segment: Segment,
    vector: Vector,
    wanted: int,
    ef: int,
    selection: KeySelection,
    rows: NDArray[np.int64],
) -> _Part:
    matches = len(rows)
    limit = _GRAPH_FIXED + min(matches * _GATHER_ROW, len(segment.passage_ids) * _SCAN_ROW)
    share = matches / len(segment.passage_ids)
    # Over-fetching grows with an `ef` above the default; where few rows pass, `ef` alone would change nothing.
    asked = max(ef, math.ceil(2 * wanted / share * max(1.0, ef / DEFAULT_EF))) if matches else 0
    if not matches or wanted >= matches or asked * _GRAPH_ROW > limit:
        return _scan(segment, vector, rows, wanted, DenseStrategy.EXACT)
    passes, wide, tried = selection.mask(segment), False, 0
    while asked < segment.live and asked * _GRAPH_ROW <= limit:
        tried = asked
        try:
            found, scores = segment.nearest(vector, asked)
        except Unreachable:
            break
        kept = passes[found]
        passed = np.count_nonzero(kept)
        # When far fewer rows pass than by chance, the neighbourhood of the query fails the filter. The rows that pass
        # are far away, where a graph finds its way less surely, so widen the search even if just enough rows passed.
        if passed >= wanted and (wide or passed >= asked * share / 2):
            return _Part(segment, found[kept], scores[kept], False, DenseStrategy.HNSW_OVERFETCH, ef=asked)
        asked, wide = asked * 10, True
    return _scan(segment, vector, rows, wanted, DenseStrategy.EXACT_FALLBACK, tried)


def _scan(
    source: Source,
    vector: Vector,
    rows: NDArray[np.int64] | None,
    wanted: int,
    strategy: DenseStrategy,
    ef: int = 0,
) -> _Part:
    """Scores every row that is alive and passes; ``ef`` is what the graph was asked for before, in vain."""
    total = len(source.passage_ids)
    if rows is None or len(rows) * _GATHER_ROW > total * _SCAN_ROW:
        scores = source.vectors @ vector
        # A copy: numpy counts a mask before it reads it, and the writer may change it between the two.
        live = source.alive.copy() if rows is None else _mask(total, rows) & source.alive
        rows = np.flatnonzero(live)
        return _best(source, rows, scores[rows], wanted, strategy, ef)
    rows = rows[source.alive[rows]]
    if len(rows) <= _ROWS_AT_ONCE:
        return _best(source, rows, source.vectors[rows] @ vector, wanted, strategy, ef)
    # In blocks that fit the cache: gathering all rows at once would write them to memory and read them back.
    blocks = [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]
    scores = np.concatenate([source.vectors[block] @ vector for block in blocks])
    return _best(source, rows, scores, wanted, strategy, ef)


def _mask(total: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    mask = np.zeros(total, dtype=np.bool_)
    mask[rows] = True
    return mask


def _best(
    source: Source,
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    wanted: int,
    strategy: DenseStrategy,
    ef: int = 0,
) -> _Part:
    complete = len(rows) <= wanted
    if not complete:
        top = np.argpartition(-scores, wanted - 1)[:wanted]
        rows, scores = rows[top], scores[top]
    order = np.argsort(-scores, kind="stable")
    return _Part(source, rows[order], scores[order], complete, strategy, ef=ef)


def _candidates(parts: Sequence[_Part], documents: int, strategy: DenseStrategy) -> tuple[DenseCandidates, int]:
    """Merges answers down to the ``documents``-th distinct document; also returns how many documents they cover."""
    if not parts:
        empty = np.empty(0, dtype=np.int64)
        return DenseCandidates(passage_ids=empty, keys=empty, scores=np.empty(0, np.float32), strategy=strategy), 0
    if len(parts) == 1:
        # The usual case, one segment of short documents: no merge, and the first rows are distinct documents.
        source, rows, scores = parts[0].source, parts[0].rows[:documents], parts[0].scores[:documents]
        keys = source.keys[rows]
        if len(rows) == documents == len(set(keys.tolist())):
            found = DenseCandidates(passage_ids=source.passage_ids[rows], keys=keys, scores=scores, strategy=strategy)
            return found, documents
    passage_ids = np.concatenate([part.source.passage_ids[part.rows] for part in parts])
    keys = np.concatenate([part.source.keys[part.rows] for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    if len(parts) > 1:
        # Below the last score of an incomplete answer, the merged order would have holes.
        floor = max((part.scores[-1] for part in parts if not part.complete and len(part.scores)), default=-np.inf)
        order = np.argsort(-scores, kind="stable")
        order = order[: np.searchsorted(-scores[order], -floor, "right")]
        passage_ids, keys, scores = passage_ids[order], keys[order], scores[order]
    firsts = np.sort(np.unique(keys, return_index=True)[1])
    covered = len(firsts)
    if covered > documents:
        end, covered = int(firsts[documents]), documents
        passage_ids, keys, scores = passage_ids[:end], keys[:end], scores[:end]
    return DenseCandidates(
        passage_ids=passage_ids, keys=keys, scores=scores.astype(np.float32), strategy=strategy
    ), covered
