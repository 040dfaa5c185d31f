"""hnswlib alone: a graph in memory, saved to a file on request. It marks the lowest cost of a search; no database."""

from __future__ import annotations

import os
from collections.abc import Sequence

import hnswlib
import numpy as np
from engine import EF_CONSTRUCTION, Engine, M, Vectors

ROOM = 2_000_000
"""Capacity in rows; memory grows with the rows added."""


class Peer(Engine):
    """hnswlib with one thread for each search; filters are a Python callback, as its documentation shows."""

    title = "hnswlib (bare)"
    kind = "library"
    requirements = ("hnswlib==0.8.0", "numpy")
    searches_while_adding = False

    def start(self) -> None:
        path = self.folder / "index.bin"
        self._path, self._buckets = path, np.zeros(0, dtype=np.int64)
        self._index = hnswlib.Index(space="cosine", dim=self.dimension)
        if path.exists():
            self._index.load_index(str(path))
            self._buckets = np.load(self.folder / "buckets.npy")
        else:
            self._index.init_index(max_elements=10_000, M=M, ef_construction=EF_CONSTRUCTION)

    def create(self) -> None:
        pass

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        if ids[-1] >= self._index.get_max_elements():
            self._index.resize_index(min(ROOM, 2 * (ids[-1] + 1)))
        self._index.add_items(vectors, list(ids))
        self._buckets = np.append(self._buckets, buckets)

    def commit(self) -> None:
        self._index.save_index(str(self._path))
        np.save(self.folder / "buckets.npy", self._buckets)
        for name in ("index.bin", "buckets.npy"):
            with (self.folder / name).open("rb") as file:
                os.fsync(file.fileno())

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        if not self._index.get_current_count():
            return []
        self._index.set_ef(max(self.effort, limit))
        if below is None:
            labels, _ = self._index.knn_query(vector, k=min(limit, self._index.get_current_count()), num_threads=1)
        else:
            buckets = self._buckets
            passes = int((buckets < below).sum())
            try:
                labels, _ = self._index.knn_query(
                    vector, k=min(limit, passes), num_threads=1, filter=lambda label: bool(buckets[label] < below)
                )
            except RuntimeError:
                # hnswlib raises where the graph's neighbourhood has fewer passing rows than asked.
                return []
        return [int(label) for label in labels[0]]

    def present(self, ids: Sequence[int]) -> int:
        return len(set(ids) & set(self._index.get_ids_list()))
