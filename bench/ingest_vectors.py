"""Durable ingest of client-made vectors, against bare ``sqlite3.executemany`` with the same commits.

Also measures searches during the ingest.

    python bench/ingest_vectors.py [--quick] [--rows N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bars import at_least, at_most, finish, percentile
from numpy.typing import NDArray

from shortlist import Client, Document
from shortlist import CollectionConfig as NewCollection
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.domain import Chunking, CollectionConfig
from shortlist_server.storage.rows import schema

DIMENSION = 384
GROUP = 546
"""Rows of a commit: as many as fit the server's window at this dimension."""

RATE_LIMIT = 0.5
LATENCY_LIMIT = 5.0
Vectors = NDArray[np.float32]


def vectors(rows: int, seed: int = 1) -> Vectors:
    """Unit vectors, clustered like embeddings."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((200, DIMENSION), dtype=np.float32)
    made = centres[random.integers(0, 200, rows)] + 0.7 * random.standard_normal((rows, DIMENSION), dtype=np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


def bare_rate(data: Vectors, folder: Path) -> float:
    """Rows per second of bare ``executemany`` into the server's tables, synced to disk as often as the server syncs.

    The rows are those of the server: a document, its checksum, its lexical row, its passage and its vector.
    """
    path = folder / "bare.db"
    config = CollectionConfig(
        embedder="none",
        embedder_revision="",
        dimension=DIMENSION,
        reranker="none",
        chunking=Chunking(max_tokens=0, overlap_tokens=0),
    )
    schema.create(path, "bare", config)
    connection = schema.open_writer(path, "bare")
    rows = [(i, f"v{i}", row.tobytes()) for i, row in enumerate(data, 1)]
    begin = time.perf_counter()
    for start in range(0, len(rows), GROUP):
        group = rows[start : start + GROUP]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO documents (key, id, sequence, passage_count, content_hash, metadata, metadata_checksum,"
            " text_checksum, title, text) VALUES (?, ?, ?, 1, x'00112233445566778899aabbccddeeff', '{\"n\":1}', 0, 0,"
            " '', '')",
            ((key, identifier, key) for key, identifier, _ in group),
        )
        connection.executemany(
            "INSERT INTO lexical (rowid, title, text) VALUES (?, '', '')", ((key,) for key, _, _ in group)
        )
        connection.executemany("INSERT INTO identities VALUES (?, 0)", ((key,) for key, _, _ in group))
        connection.executemany("INSERT INTO passages VALUES (?, ?, 0, 0, 0, 0, 0)", ((key, key) for key, _, _ in group))
        connection.executemany("INSERT INTO vectors VALUES (?, 0, ?)", ((key, vector) for key, _, vector in group))
        connection.execute("COMMIT")
    rate = len(data) / (time.perf_counter() - begin)
    connection.close()
    return rate


def rows_of(data: Vectors, prefix: str) -> Iterator[Document]:
    for i, row in enumerate(data):
        yield Document(id=f"{prefix}{i}", metadata={"n": 1}, vector=row)


def ingest(target: str, rows: int, prefix: str, seed: int) -> None:
    """Ingests vectors in another process while searches are timed."""
    with Client(target) as client:
        client.ingest("vectors", rows_of(vectors(rows, seed), prefix)).finish()


def search_ms(client: Client, queries: Vectors) -> list[float]:
    times = []
    for query in queries:
        begin = time.perf_counter()
        client.search("vectors", vector=query.tolist())
        times.append((time.perf_counter() - begin) * 1000)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    parser.add_argument("--rows", type=int, default=60_000)
    options = parser.parse_args()
    rows = 6_000 if options.quick else options.rows
    data, queries = vectors(rows), vectors(300, seed=2)
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for i in range(3):
            (folder / str(i)).mkdir()
            server = ServerProcess(folder / str(i) / "data", arguments=["--embedder", "hashing"])
            try:
                with Client(server.target) as client:
                    client.create_collection("vectors", NewCollection(embedder="none", dimension=DIMENSION))
                    bare = bare_rate(data, folder / str(i))
                    begin = time.perf_counter()
                    client.ingest("vectors", rows_of(data, "v")).finish()
                    rates.append(rows / (time.perf_counter() - begin))
                    ratios.append(rates[-1] / bare)
                    if i < 2:
                        continue
                    # An idle server does not flush, so wait until it has.
                    wait_flushed(client)
                    idle = search_ms(client, queries)
                    feeder = multiprocessing.get_context("spawn").Process(
                        target=ingest, args=(server.target, rows, "w", 3)
                    )
                    feeder.start()
                    busy: list[float] = []
                    before = client.get_collection("vectors").document_count
                    while client.get_collection("vectors").document_count == before and feeder.is_alive():
                        time.sleep(0.05)
                    while feeder.is_alive():
                        busy += search_ms(client, queries[:50])
                    feeder.join()
            finally:
                server.stop()
    finish(
        "ingest_vectors",
        [
            at_least("stream rate / bare executemany rate", statistics.median(ratios), RATE_LIMIT),
            at_most(
                "search p99 during ingest / idle p99", percentile(busy, 0.99) / percentile(idle, 0.99), LATENCY_LIMIT
            ),
        ],
        rows=rows,
        rows_per_second=statistics.median(rates),
        idle_ms={"p50": percentile(idle, 0.5), "p99": percentile(idle, 0.99)},
        during_ingest_ms={"p50": percentile(busy, 0.5), "p99": percentile(busy, 0.99), "searches": len(busy)},
    )


def wait_flushed(client: Client, seconds: float = 300.0) -> None:
    """Waits until the server flushes no more."""
    until = time.monotonic() + seconds
    last = -1
    while time.monotonic() < until:
        flushed = client.get_collection("vectors").segment_passage_count
        if flushed == last:
            return
        last = flushed
        time.sleep(5)


if __name__ == "__main__":
    main()
