"""Shared parts of the benchmarks of a served collection: the data, a loaded server, timed searches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shortlist import Client, Document
from shortlist_cli.hosting.server_process import ServerProcess

SCIFACT = Path(__file__).resolve().parents[2] / "shared" / "data" / "scifact"
COLLECTION = "bench"


def documents(folder: Path, limit: int | None = None) -> list[Document]:
    """The corpus of a BEIR folder, or its first documents."""
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(limit or 10**9), strict=False)]
    return [Document(id=row["_id"], title=row["title"], text=row["text"]) for row in rows]


def queries(folder: Path) -> list[str]:
    """All query texts of a BEIR folder."""
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@contextmanager
def serving(folder: Path, corpus: Sequence[Document] = (), *, arguments: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """Runs a server on a data folder; ingests the corpus when the collection is missing."""
    server = ServerProcess(folder / "data", arguments=arguments, log_path=folder / "server.log")
    try:
        with Client(server.target) as client:
            names = {collection.name for collection in client.list_collections()}
            if COLLECTION not in names:
                client.create_collection(COLLECTION)
                client.ingest(COLLECTION, corpus).finish()
        yield server
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class Load:
    """Times of a run of searches: sorted latencies in milliseconds, and calls per second."""

    latencies_ms: list[float]
    per_second: float

    def at(self, share: float) -> float:
        """The latency that a share (0 to 1) of the searches does not exceed."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


def search_all(target: str, texts: Sequence[str], *, callers: int = 1, pause_seconds: float = 0.0) -> Load:
    """Searches once for every text, with the default settings, from ``callers`` callers with a client each."""
    chunks = [texts[i::callers] for i in range(callers)]

    def call(chunk: Sequence[str]) -> list[float]:
        latencies = []
        with Client(target) as client:
            client.list_collections(page_size=1)
            for text in chunk:
                begin = time.perf_counter()
                client.search(COLLECTION, text)
                latencies.append((time.perf_counter() - begin) * 1000)
                if pause_seconds:
                    time.sleep(pause_seconds)
        return latencies

    begin = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        latencies = sorted(latency for part in pool.map(call, chunks) for latency in part)
    return Load(latencies, len(latencies) / (time.perf_counter() - begin))
