"""Shortlist: ``shortlist serve`` through its client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine import Engine, Vectors, children, wait_until_quiet

from shortlist import Candidates, Client, CollectionConfig, Document, Field, Include
from shortlist_cli.hosting.server_process import ServerProcess

NAME = "bench"
NOTHING = Include(text=False, metadata=False)
SEGMENT_PASSAGES = 4096
"""Passages that make the server flush the growing segment, by default; fewer stay in it, and searches scan them."""


class Peer(Engine):
    """A server process; the caller supplies the vectors, except in the search of text."""

    title = "Shortlist"
    kind = "server"
    requirements = None
    settings = "its defaults; ef as needed"

    def start(self) -> None:
        # Loads the same models in every phase, though a server without texts to embed would start faster.
        self._process = ServerProcess(self.folder / "data", log_path=self.folder / "server.log")
        self._client = Client(self._process.target, timeout_seconds=120)
        self._client.list_collections(page_size=1)

    def create(self) -> None:
        config = CollectionConfig(
            embedder="none", reranker="none", dimension=self.dimension, filterable_fields=("bucket",)
        )
        self._client.create_collection(NAME, config)

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        self._client.ingest(NAME, _documents(ids, vectors, buckets)).finish()

    def add_all(
        self, vectors: Vectors, buckets: Sequence[int], first: int, size: int, acked: Callable[[int], None]
    ) -> None:
        ids = range(first, first + len(vectors))
        for count, ack in enumerate(self._client.ingest(NAME, _documents(ids, vectors, buckets)), 1):
            if not ack.ok:
                raise RuntimeError(f"{ack.id}: {ack.error}")
            if count % size == 0 or count == len(vectors):
                acked(count)

    def settle(self, name: str = NAME) -> None:
        # The server's own process is quiet while its child builds a segment.
        building = True
        while building:
            wait_until_quiet(self.pids())
            building = self._growing(name) >= SEGMENT_PASSAGES or bool(children(self._process.process.pid))

    def _growing(self, name: str) -> int:
        collection = self._client.get_collection(name)
        return collection.passage_count - collection.segment_passage_count

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        hits = self._client.search(
            NAME,
            vector=vector,
            limit=limit,
            mode="dense",
            candidates=Candidates(dense=limit, ef=max(self.effort, limit)),
            filter=None if below is None else Field("bucket") < below,
            include=NOTHING,
        )
        return [int(hit.id) for hit in hits]

    def present(self, ids: Sequence[int]) -> int:
        wanted, found = [str(id) for id in ids], 0
        for start in range(0, len(wanted), 1000):
            some = self._client.get(NAME, wanted[start : start + 1000], include=NOTHING)
            found += sum(one is not None for one in some)
        return found

    def text_run(self, text: dict[str, Any]) -> dict[str, list[list[int]]]:
        """Searches the texts, cut into Shortlist's own passages: the whole search, and vectors alone."""
        self._client.create_collection("text", CollectionConfig(embedder=text["embedder"].partition("=")[0]))
        documents = (
            Document(id=str(number), title=row["title"], text=row["text"])
            for number, row in enumerate(text["documents"])
        )
        self._client.ingest("text", documents).finish()
        self.settle("text")

        def search(query: str, **settings: Any) -> list[int]:
            return [int(hit.id) for hit in self._client.search("text", query, **settings)]

        return {
            "found": [search(query) for query in text["queries"]],
            "found_by_vectors": [search(query, mode="dense", rerank=False) for query in text["queries"]],
        }

    def stop(self) -> None:
        self._client.close()
        self._process.stop()

    def pids(self) -> list[int]:
        return [self._process.process.pid]


def _documents(ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> Iterator[Document]:
    for id, vector, bucket in zip(ids, vectors, buckets, strict=True):
        yield Document(id=str(id), vector=vector, metadata={"bucket": int(bucket)})
