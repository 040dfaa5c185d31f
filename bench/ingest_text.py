"""Ingest of texts from another process, against a bare loop over the same model; and growth of memory.

The dense index is in memory by design, so the server grows with the documents. All other memory must stay flat.

python bench/ingest_text.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from bars import at_least, at_most, finish
from served import SCIFACT, documents

from shortlist import Client, Document
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.config import DEFAULT_EMBEDDER, Config
from shortlist_server.domain import OverflowPolicy
from shortlist_server.inference.base import Embedder
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.loading import load_embedder
from shortlist_server.storage.layout import GRAPH_FILE

RATE_LIMIT = 0.8
MEMORY_LIMIT_MB = 100.0
BATCH_TOKENS = 2048


def bare_rate(engine: Embedder, corpus: Sequence[Document]) -> float:
    """Documents per second of a bare loop: cut all documents, sort the passages by length, run batch after batch."""
    begin = time.perf_counter()
    chunking = engine.info.default_chunking
    passages = [
        passage
        for document in corpus
        for passage in engine.cut(document.title, document.text, chunking, OverflowPolicy.CHUNK).passages
    ]
    passages.sort(key=lambda passage: passage.tokens)
    batch: list[str] = []
    cost = 0
    for passage in passages:
        if batch and cost + passage.tokens > BATCH_TOKENS:
            engine.embed_passages(batch, token_vectors=True)
            batch, cost = [], 0
        batch.append(passage.content)
        cost += passage.tokens
    engine.embed_passages(batch, token_vectors=True)
    return len(corpus) / (time.perf_counter() - begin)


def served_rate(folder: Path, corpus: Sequence[Document]) -> float:
    """Documents per second from the first send to the last durable acknowledgement."""
    server = ServerProcess(folder / "data")
    try:
        with Client(server.target) as client:
            client.create_collection("texts")
            client.ingest("texts", corpus[:8]).finish()
            begin = time.perf_counter()
            client.ingest("texts", corpus[8:]).finish()
            return (len(corpus) - 8) / (time.perf_counter() - begin)
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class Growth:
    """Growth of memory in MB; ``index`` is the server's part that the dense index holds by design."""

    client: float
    server: float
    index: float


def memory_growth(folder: Path, first: int, last: int) -> Growth:
    """Growth of memory between ``first`` and ``last`` documents, with the hashing embedder."""
    server = ServerProcess(folder / "flat", arguments=["--embedder", "hashing"])
    ours, theirs = psutil.Process(), psutil.Process(server.process.pid)

    def texts() -> Iterator[Document]:
        for number in range(last):
            yield Document(id=f"d{number}", text=f"document {number} says that {number * 7919 % last} is a number " * 8)

    try:
        with Client(server.target) as client:
            client.create_collection("texts")
            marks = {}
            for seen, _ in enumerate(client.ingest("texts", texts()), 1):
                if seen in (first, last):
                    marks[seen] = (anonymous_mb(ours), anonymous_mb(theirs), index_mb(folder / "flat", client))
    finally:
        server.stop()
    return Growth(*(after - before for before, after in zip(marks[first], marks[last], strict=True)))


def index_mb(data: Path, client: Client) -> float:
    """Vectors and graphs in memory: a graph takes the size of its file, the growing segment has vectors alone."""
    texts = client.get_collection("texts")
    growing = (texts.passage_count - texts.segment_passage_count) * texts.config.dimension * 4
    graphs = (data / "collections" / "texts" / "segments").glob(f"[!.]*/{GRAPH_FILE}")
    return (growing + sum(graph.stat().st_size for graph in graphs)) / 2**20


def anonymous_mb(process: psutil.Process) -> float:
    """Megabytes of the process's own memory, without mapped files, which are the system's cache."""
    info = process.memory_info()
    return (info.rss - info.shared) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer documents")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format")
    options = parser.parse_args()
    corpus = documents(options.data, 150 if options.quick else 1500)
    ratios, rates = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engine = load_embedder(DEFAULT_EMBEDDER, bundled_minilm(), "", Config(data_dir=folder / "bare"))
        for i in range(1 if options.quick else 3):
            bare = bare_rate(engine, corpus)
            rates.append(served_rate(folder / str(i), corpus))
            ratios.append(rates[-1] / bare)
        first, last = (1_000, 5_000) if options.quick else (10_000, 100_000)
        growth = memory_growth(folder, first, last)
    finish(
        "ingest_text",
        [
            at_least("documents per second through the stream / bare loop", statistics.median(ratios), RATE_LIMIT),
            at_most(f"growth of client memory from {first} to {last} documents, MB", growth.client, MEMORY_LIMIT_MB),
            at_most(
                f"growth of server memory beyond vectors and graphs from {first} to {last} documents, MB",
                growth.server - growth.index,
                MEMORY_LIMIT_MB,
            ),
        ],
        server_growth_mb=growth.server,
        server_growth_of_vectors_and_graphs_mb=growth.index,
        documents=len(corpus),
        documents_per_second=statistics.median(rates),
    )


if __name__ == "__main__":
    main()
