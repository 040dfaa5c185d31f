"""Parts that several benchmarks of a served collection share: the data, a loaded server, timed searches."""

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
    """The corpus of a BEIR folder, or its beginning."""
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(limit or 10**9), strict=False)]
    return [Document(id=row["_id"], title=row["title"], text=row["text"]) for row in rows]


def queries(folder: Path) -> list[str]:
    """All query texts of a BEIR folder."""
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@contextmanager
def serving(folder: Path, corpus: Sequence[Document] = (), *, arguments: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """A server process on a data folder; the corpus is ingested when the collection is not there yet."""
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
    """What a run of searches took: latencies in milliseconds, sorted, and calls per second."""

    latencies_ms: list[float]
    per_second: float

    def at(self, share: float) -> float:
        """The latency below which a share (0 to 1) of the searches lies."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


def search_all(target: str, texts: Sequence[str], *, callers: int = 1, pause_seconds: float = 0.0) -> Load:
    """Searches for every text once, with the default settings, from so many callers with a client each."""
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
