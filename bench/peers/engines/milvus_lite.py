"""milvus-lite: Milvus' API over a file."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from engine import EF_CONSTRUCTION, Engine, M, Vectors, wait_until_quiet

NAME = "bench"


class Peer(Engine):
    """A file through pymilvus; every insert is flushed to make it durable."""

    title = "milvus-lite"
    requirements = ("pymilvus==3.0.2", "milvus-lite==3.2.2", "numpy")

    def start(self) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(str(self.folder / "data.db"))
        if self._client.has_collection(NAME):
            self._client.load_collection(NAME)

    def create(self) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dimension)
        schema.add_field("bucket", DataType.INT64)
        index = self._client.prepare_index_params()
        parameters = {"M": M, "efConstruction": EF_CONSTRUCTION}
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params=parameters)
        self._client.create_collection(NAME, schema=schema, index_params=index)
        self._client.load_collection(NAME)

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        rows = [
            {"id": id, "vector": vector, "bucket": bucket}
            for id, vector, bucket in zip(ids, vectors, buckets, strict=True)
        ]
        self._client.insert(NAME, rows)
        self._client.flush(NAME)

    def settle(self) -> None:
        until = time.monotonic() + 1800
        while time.monotonic() < until:
            if not self._client.describe_index(NAME, "vector").get("pending_index_rows"):
                break
            time.sleep(0.5)
        wait_until_quiet(self.pids())

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        (hits,) = self._client.search(
            NAME,
            data=[vector],
            limit=limit,
            filter="" if below is None else f"bucket < {below}",
            search_params={"params": {"ef": max(self.effort, limit)}},
            output_fields=["id"],
        )
        return [int(hit["id"]) for hit in hits]

    def present(self, ids: Sequence[int]) -> int:
        wanted, found = list(ids), 0
        for start in range(0, len(wanted), 5000):
            found += len(self._client.get(NAME, ids=wanted[start : start + 5000], output_fields=["id"]))
        return found

    def stop(self) -> None:
        self._client.close()

    def pids(self) -> list[int]:
        return [os.getpid()]
