"""A loaded segment: an immutable HNSW graph with its vectors, and a mask of the rows that died since.

A loaded graph never grows; the one change is ``mark_deleted``, which the writer thread applies while others search. The
graph numbers its nodes from 0, and an answer indexes the arrays beside it directly. Rows whose vectors equal a node's
come after the nodes, and the node stands for them. hnswlib keeps one ``ef`` per graph, on which queries would race, and
searches with the larger of it and ``k``: it stays 1 here, and each query passes its own ``ef`` as ``k``.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Vector
from shortlist_server.storage.layout import GRAPH_FILE, KEYS_FILE, PASSAGE_IDS_FILE, VECTORS_FILE
from shortlist_server.storage.values import SegmentRow
from shortlist_server.storage.vectors.growing import rows_between
from shortlist_server.storage.vectors.manifest import SegmentDamaged, check_folder
from shortlist_server.storage.vectors.twins import Twins, equal_share, read_twins

_CROWDED_SHARE = 0.01


class Unreachable(Exception):
    """The graph could not reach as many live rows as the search wanted; scan the rows instead."""


class Segment:
    """A published segment in memory.

    Attributes:
        row: its row in the database.
        vectors: shape (n, dimension), float32, mapped from the file.
        passage_ids, keys: shape (n,), int64, in the graph's order of rows.
        alive: shape (n,), bool; the writer changes it at any time, so copy it before using it as a mask.
        live: number of rows alive.
        crowded: whether many equal vectors have nodes of their own, which makes searches of the graph miss rows; only
            an earlier release made such segments.
    """

    __slots__ = (
        "_graph",
        "_key_order",
        "_passage_id_order",
        "_sorted_keys",
        "_twins",
        "alive",
        "crowded",
        "keys",
        "live",
        "passage_ids",
        "row",
        "vectors",
    )

    def __init__(
        self,
        row: SegmentRow,
        graph: Any,
        vectors: NDArray[np.float32],
        passage_ids: NDArray[np.int64],
        keys: NDArray[np.int64],
        twins: Twins | None = None,
        crowded: bool = False,
    ) -> None:
        self.row = row
        self.vectors = vectors
        self.passage_ids = passage_ids
        self.keys = keys
        self.alive = np.ones(len(passage_ids), dtype=np.bool_)
        self.live = len(passage_ids)
        self.crowded = crowded
        self._graph = graph
        self._twins = twins
        # A merge starts from its largest segment, so rows may not be in the order of their passage ids.
        ascending = bool(np.all(passage_ids[1:] > passage_ids[:-1]))
        self._passage_id_order = None if ascending else np.argsort(passage_ids)
        # Keys ascend with the passage ids, except where the build of a generation added old documents between new ones.
        self._key_order = self._passage_id_order
        self._sorted_keys = keys if self._key_order is None else keys[self._key_order]
        if not np.all(self._sorted_keys[1:] >= self._sorted_keys[:-1]):
            self._key_order = np.argsort(keys, kind="stable")
            self._sorted_keys = keys[self._key_order]

    @classmethod
    def load(cls, folder: Path, row: SegmentRow, collection: str, dimension: int) -> Segment:
        """Checks a segment's files and loads them. Loading the graph holds the interpreter lock: 1.4 s a million rows.

        Raises:
            SegmentDamaged: a file differs from what the database and the manifest say.
        """
        manifest = check_folder(folder, row, collection, dimension)
        passage_ids = np.fromfile(folder / PASSAGE_IDS_FILE, dtype=np.int64)
        keys = np.fromfile(folder / KEYS_FILE, dtype=np.int64)
        with (folder / VECTORS_FILE).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        vectors = np.frombuffer(mapped, dtype=np.float32)
        if len(passage_ids) != row.passages or len(keys) != row.passages or vectors.size != row.passages * dimension:
            raise SegmentDamaged(f"{folder.name}: the files disagree on the number of passages")
        vectors = vectors.reshape(-1, dimension)
        twins = read_twins(folder, manifest)
        nodes = len(passage_ids) - len(twins)
        graph = hnswlib.Index(space="ip", dim=dimension)
        try:
            graph.load_index(str(folder / GRAPH_FILE))
        except RuntimeError as error:
            raise SegmentDamaged(f"{GRAPH_FILE}: {error}") from error
        if graph.get_current_count() != nodes:
            raise SegmentDamaged(f"{GRAPH_FILE}: holds {graph.get_current_count()} nodes of {nodes}")
        graph.set_ef(1)
        crowded = manifest.format == 1 and equal_share(vectors) > _CROWDED_SHARE
        return cls(row, graph, vectors, passage_ids, keys, Twins(nodes, twins) if len(twins) else None, crowded)

    def covers(self, passage_id: int) -> bool:
        """Whether the passage id is in the segment's range."""
        return self.row.low < passage_id <= self.row.high

    def nearest(self, vector: Vector, ef: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ``ef`` live rows that the graph finds nearest, best first, with their cosine.

        Returns more if the last of them has equals.

        Raises:
            Unreachable: fewer rows are live or can be reached from the graph's entry.
        """
        twins = self._twins
        asked = ef if twins is None else min(ef, twins.live_nodes)
        try:
            found, distances = self._graph.knn_query(vector, k=asked, num_threads=1)
        except RuntimeError as error:
            raise Unreachable(str(error)) from error
        nodes = found[0].astype(np.int64)
        if twins is None:
            return nodes, 1.0 - distances[0]
        rows = twins.live_rows(nodes, ef, self.alive)
        scores = self.vectors[rows] @ vector
        order = np.argsort(-scores, kind="stable")
        return rows[order], scores[order]

    def rows_of(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Live rows of these documents, shape (r,)."""
        places = rows_between(self._sorted_keys, keys)
        rows = places if self._key_order is None else self._key_order[places]
        return rows[self.alive[rows]]

    def remove(self, passage_ids: NDArray[np.int64]) -> int:
        """Marks rows dead and returns their number; skips passage ids not here or dead already. Writer thread only."""
        order = self._passage_id_order
        positions = np.searchsorted(self.passage_ids, passage_ids, sorter=order)
        inside = positions < len(self.passage_ids)
        positions, wanted = positions[inside], passage_ids[inside]
        rows = positions if order is None else order[positions]
        rows = rows[(self.passage_ids[rows] == wanted) & self.alive[rows]]
        mark = self._graph.mark_deleted
        for node in (rows if self._twins is None else self._twins.remove(rows)).tolist():
            mark(node)
        self.alive[rows] = False
        self.live -= len(rows)
        return len(rows)

    def keep_only(self, live_passage_ids: NDArray[np.int64]) -> bool:
        """Marks every row dead that is not in ``live_passage_ids`` (ascending); False if one of those is missing."""
        dead = self.passage_ids[~np.isin(self.passage_ids, live_passage_ids, assume_unique=True)]
        self.remove(dead)
        return self.live == len(live_passage_ids)
