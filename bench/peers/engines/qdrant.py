"""Qdrant's embedded engine (``qdrant-edge-py``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qdrant_edge as qdrant
from engine import EF_CONSTRUCTION, Engine, M, Vectors


class Peer(Engine):
    """A shard in this process; as documented, ``flush`` follows every batch and ``optimize`` precedes searches."""

    title = "Qdrant Edge"
    requirements = ("qdrant-edge-py==0.9.0", "numpy")

    def start(self) -> None:
        path = self.folder / "shard"
        self._shard: Any = qdrant.EdgeShard.load(str(path)) if path.exists() else None

    def create(self) -> None:
        path = self.folder / "shard"
        path.mkdir()
        graph = qdrant.HnswIndexConfig(m=M, ef_construct=EF_CONSTRUCTION, full_scan_threshold=10_000)
        config = qdrant.EdgeConfig(
            vectors=qdrant.EdgeVectorParams(size=self.dimension, distance=qdrant.Distance.Cosine), hnsw_config=graph
        )
        self._shard = qdrant.EdgeShard.create(str(path), config)
        self._shard.update(qdrant.UpdateOperation.create_field_index("bucket", qdrant.PayloadSchemaType.Integer))

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        points = [
            qdrant.Point(id, vector.tolist(), {"bucket": bucket})
            for id, vector, bucket in zip(ids, vectors, buckets, strict=True)
        ]
        self._shard.update(qdrant.UpdateOperation.upsert_points(points))
        self._shard.flush()

    def settle(self) -> None:
        self._shard.optimize()

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        passes = None
        if below is not None:
            passes = qdrant.Filter(must=[qdrant.FieldCondition("bucket", range=qdrant.RangeFloat(lt=below))])
        hits = self._shard.query(
            qdrant.QueryRequest(
                limit=limit,
                query=qdrant.Query.Nearest(vector.tolist()),
                filter=passes,
                params=qdrant.SearchParams(hnsw_ef=max(self.effort, limit)),
            )
        )
        return [int(hit.id) for hit in hits]

    def present(self, ids: Sequence[int]) -> int:
        wanted, found = list(ids), 0
        for start in range(0, len(wanted), 5000):
            found += len(self._shard.retrieve(wanted[start : start + 5000], False, False))
        return found

    def stop(self) -> None:
        if self._shard is not None:
            self._shard.close()
