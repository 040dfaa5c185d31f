"""Chroma's server (``chroma run``) through its HTTP client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import EF_CONSTRUCTION, Engine, M, Vectors, free_port, wait_for_port, wait_until_quiet

NAME = "bench"


class Peer(Engine):
    """A server process, called from this process."""

    title = "Chroma server"
    kind = "server"
    requirements = ("chromadb==1.5.9", "numpy")

    def start(self) -> None:
        os.environ["ANONYMIZED_TELEMETRY"] = "False"
        import chromadb

        port = free_port()
        program = Path(sys.executable).with_name("chroma")
        self._log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [str(program), "run", "--path", str(self.folder / "data"), "--host", "127.0.0.1", "--port", str(port)],
            stdout=self._log,
            stderr=self._log,
        )
        wait_for_port(self._process, port)
        self._client = chromadb.HttpClient(host="127.0.0.1", port=port)
        self._collection: Any = None
        self._set_effort = 0
        if any(collection.name == NAME for collection in self._client.list_collections()):
            self._collection = self._client.get_collection(NAME)

    def create(self) -> None:
        self._collection = self._client.create_collection(
            NAME,
            configuration={"hnsw": {"space": "cosine", "max_neighbors": M, "ef_construction": EF_CONSTRUCTION}},
            embedding_function=None,
        )

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        self._collection.add(
            ids=[str(id) for id in ids], embeddings=vectors, metadatas=[{"bucket": bucket} for bucket in buckets]
        )

    def settle(self) -> None:
        wait_until_quiet(self.pids())

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        if self._set_effort != self.effort:
            self._collection.modify(configuration={"hnsw": {"ef_search": self.effort}})
            self._set_effort = self.effort
        where = None if below is None else {"bucket": {"$lt": below}}
        found = self._collection.query(query_embeddings=[vector], n_results=limit, where=where, include=[])
        return [int(id) for id in found["ids"][0]]

    def present(self, ids: Sequence[int]) -> int:
        wanted, found = [str(id) for id in ids], 0
        for start in range(0, len(wanted), 5000):
            found += len(self._collection.get(ids=wanted[start : start + 5000], include=[])["ids"])
        return found

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._log.close()

    def pids(self) -> list[int]:
        return [self._process.pid]
