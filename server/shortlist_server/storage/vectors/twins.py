"""Twins: vectors so near to each other that a few nodes of a graph stand for all of them.

A graph links each node to a few of its nearest. Where hundreds of vectors are equal, all their links stay among them,
and a search that enters the group never leaves it. So at most ``NODES`` of equal vectors become nodes, and the segment
knows the rows behind each. The same text embedded twice may differ in the last bits, so vectors count as equal when no
ranking could tell them apart. Each row still gets its own score.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shortlist_server.storage.layout import TWINS_FILE
from shortlist_server.storage.vectors.manifest import Manifest

NEAR = 1e-5
"""Squared distance, as a share of the squared length, up to which a node stands for a vector (cosine 0.999995)."""

NODES = 16
"""The most nodes for a group of equal vectors: as many as a new node has links.

Measured with 100 groups of 24 equal vectors, each far from all else, among 21,600 other vectors: searches missed 40
groups with one node for each, 19 with 4, 5 with 8 and 1 with 16.
"""

# Rows are compared only within a cell of a grid over some random directions: first a fine grid, where equal rows share
# a cell with few others, then a coarse one, whose borders seldom separate near rows.
_DIRECTIONS = 6
_WIDTHS = (1e-3, 5e-2)
_ROUNDS = 16
_ROWS_AT_ONCE = 8192
_MOST_EXPANDED = 4096


def represent(vectors: NDArray[np.float32], stands: NDArray[np.int64], fixed: int) -> NDArray[np.int64]:
    """For each row the row whose node stands for it: itself, or a near one if many rows are near; shape (n,).

    Costs a few passes over the vectors. Near rows may remain separate, which only costs nodes.

    Args:
        vectors: shape (n, dimension).
        stands: shape (n,): the known answer, which may still turn a row that stands for itself into a twin.
        fixed: number of first rows that are nodes already and stay nodes.
    """
    groups, own = stands, np.arange(len(vectors))
    scale = float(np.sqrt(np.vdot(vectors, vectors) / max(1, len(vectors)))) or 1.0
    if not np.isfinite(scale):
        return stands
    for width in _WIDTHS:
        leaders = np.flatnonzero(groups == own)
        # The largest group is tried first: it has the most to gain.
        leaders = leaders[np.argsort(-np.bincount(groups, minlength=len(own))[leaders], kind="stable")]
        moved = own.copy()
        for members in _cells(vectors, leaders, width * scale):
            _join(vectors, members, moved)
        groups = moved[groups]
    return _choose_nodes(groups, stands, fixed)


def _choose_nodes(groups: NDArray[np.int64], stands: NDArray[np.int64], fixed: int) -> NDArray[np.int64]:
    """Makes the first rows of each group nodes, and distributes the other rows among them."""
    members = np.flatnonzero(stands == np.arange(len(stands)))
    members = members[np.argsort(groups[members], kind="stable")]
    of = groups[members]
    first = np.searchsorted(of, of)
    rank = np.arange(len(members)) - first
    # Within a group the fixed rows come first, so its nodes are the first of its members.
    is_node = (members < fixed) | (rank < NODES)
    nodes = np.bincount(of[is_node], minlength=len(groups))[of]
    chosen = stands.copy()
    chosen[members] = members[np.where(is_node, first + rank, first + rank % nodes)]
    return chosen


def _cells(vectors: NDArray[np.float32], rows: NDArray[np.int64], width: float) -> list[NDArray[np.int64]]:
    """For each cell of the grid with several rows these rows, in the order given."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((vectors.shape[1], _DIRECTIONS)).astype(np.float32) / np.float32(width)
    shift = random.random(_DIRECTIONS)
    factors = random.integers(1 << 62, size=_DIRECTIONS) | 1
    names = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        places = np.floor(np.asarray(vectors[block] @ directions) + shift)
        names[start : start + len(block)] = (places.astype(np.int64) * factors).sum(axis=1)
    order = np.argsort(names, kind="stable")
    starts = np.flatnonzero(np.diff(names[order], prepend=names[order[:1]] - 1))
    ends = np.append(starts[1:], len(rows))
    several = ends - starts > 1
    return [rows[order[start:end]] for start, end in zip(starts[several], ends[several], strict=True)]


def _join(vectors: NDArray[np.float32], members: NDArray[np.int64], groups: NDArray[np.int64]) -> None:
    rest = members
    for _ in range(_ROUNDS):
        if len(rest) < 2:
            return
        leader, rest = rest[0], rest[1:]
        limit = NEAR * float(np.vdot(vectors[leader], vectors[leader]))
        near = _squared_distances(vectors, rest, leader) <= limit
        groups[rest[near]] = leader
        rest = rest[~near]


def _squared_distances(vectors: NDArray[np.float32], rows: NDArray[np.int64], to: np.int64) -> NDArray[np.float32]:
    found = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        away = vectors[rows[start : start + _ROWS_AT_ONCE]] - vectors[to]
        found[start : start + len(away)] = np.einsum("ij,ij->i", away, away)
    return found


def equal_share(vectors: NDArray[np.float32]) -> float:
    """Share of rows that equal an earlier row; costs one pass over the vectors."""
    direction = np.random.default_rng(0).standard_normal(vectors.shape[1:]).astype(np.float32)
    return 1 - len(np.unique(vectors @ direction)) / max(1, len(vectors))


def read_twins(folder: Path, manifest: Manifest) -> NDArray[np.int64]:
    """The nodes for ``Twins``, from a segment's folder; empty for a segment of format 1."""
    if TWINS_FILE not in manifest.files:
        return np.empty(0, dtype=np.int64)
    return np.fromfile(folder / TWINS_FILE, dtype=np.int64)


class Twins:
    """The rows of a segment after its graph's nodes. Only the writer thread changes it.

    Attributes:
        nodes: shape (t,), int64, ascending: the node that stands for row ``count + i``.
        live_nodes: number of nodes that stand for a live row.
    """

    __slots__ = ("_count", "_live", "_starts", "live_nodes", "nodes")

    def __init__(self, count: int, nodes: NDArray[np.int64]) -> None:
        self.nodes = nodes
        self.live_nodes = count
        self._count = count
        self._starts = count + np.searchsorted(nodes, np.arange(count + 1))
        self._live = 1 + np.diff(self._starts)

    def remove(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts rows as dead; returns the nodes that stand for no live row any more, shape (d,)."""
        is_node = rows < self._count
        nodes = np.concatenate((rows[is_node], self.nodes[rows[~is_node] - self._count]))
        np.subtract.at(self._live, nodes, 1)
        dead = np.unique(nodes)
        gone: NDArray[np.int64] = dead[self._live[dead] == 0]
        self.live_nodes -= len(gone)
        return gone

    def live_rows(self, nodes: NDArray[np.int64], wanted: int, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The live rows of the first nodes that together have at least ``wanted``, in no order.

        Limits the rows of one node to ``wanted`` or some thousands, because they are nearly equal.

        Args:
            alive: shape (n,), of all rows of the segment.
        """
        enough = int(np.searchsorted(np.cumsum(self._live[nodes]), wanted)) + 1
        nodes = nodes[:enough]
        first = self._starts[nodes]
        counts = self._starts[nodes + 1] - first
        most = max(wanted, _MOST_EXPANDED)
        total = int(counts.sum())
        if total <= most:
            beyond = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(total)
            rows = np.concatenate((nodes, beyond))
            return rows[alive[rows]]
        parts = [nodes[alive[nodes]]]
        for start, count in zip(first.tolist(), counts.tolist(), strict=True):
            parts.append(start + np.flatnonzero(alive[start : start + count])[:most])
        return np.concatenate(parts)
