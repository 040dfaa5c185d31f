"""LanceDB: tables in Lance's columnar format, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import lancedb
import pyarrow as pa
from engine import EF_CONSTRUCTION, Engine, M, Vectors

NAME = "bench"
REFINE = 4
"""Candidates for each hit to score again with the full vectors; the graph must return that many."""

FEW = 256
"""Fewest rows that an index can be trained on."""


class Peer(Engine):
    """IVF with an HNSW graph over scalar-quantised vectors in one partition, refined with the full vectors."""

    title = "LanceDB"
    requirements = ("lancedb==0.40.0", "numpy")
    settings = f"IVF_HNSW_SQ in one partition, M {M}, ef_construction {EF_CONSTRUCTION}, refined"

    def start(self) -> None:
        self._database = lancedb.connect(self.folder)
        self._table: Any = self._database.open_table(NAME) if (self.folder / f"{NAME}.lance").exists() else None

    def create(self) -> None:
        schema = pa.schema(
            [("id", pa.int64()), ("vector", pa.list_(pa.float32(), self.dimension)), ("bucket", pa.int64())]
        )
        self._table = self._database.create_table(NAME, schema=schema)

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.dimension)
        self._table.add(pa.table({"id": pa.array(ids), "vector": column, "bucket": pa.array(buckets)}))

    def settle(self) -> None:
        from lancedb.index import BTree, HnswSq

        if self._table.count_rows() >= FEW:
            graph = HnswSq(distance_type="cosine", num_partitions=1, m=M, ef_construction=EF_CONSTRUCTION)
            self._table.create_index("vector", config=graph)
            self._table.create_index("bucket", config=BTree())
        self._table.optimize(cleanup_older_than=timedelta(0))

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        query = self._table.search(vector).distance_type("cosine").limit(limit).select(["id", "_distance"])
        query = query.nprobes(1).ef(max(self.effort, REFINE * limit)).refine_factor(REFINE)
        if below is not None:
            query = query.where(f"bucket < {below}", prefilter=True)
        return [int(id) for id in query.to_arrow().column("id").to_pylist()]

    def present(self, ids: Sequence[int]) -> int:
        wanted = set(ids)
        found = self._table.search().select(["id"]).limit(10_000_000).to_arrow().column("id").to_pylist()
        return len(wanted & set(found))
