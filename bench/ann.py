"""Dense search over segments, the growing one included, against one bare hnswlib index of the same vectors.

Searches run plain, with a fifth of the rows replaced or deleted, and filtered: at several shares, and with filters that
go with or against the query. The data is many small clusters, where a filter can exclude most of a query's
neighbourhood at once. Every bar is a ratio within this run, or a recall against brute force.

    python bench/ann.py [--quick] [--rows N] [--queries N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
import psutil
from bars import Bar, at_least, at_most, finish, percentile
from numpy.typing import NDArray

from shortlist_server.config import Config
from shortlist_server.domain import (
    Chunking,
    CollectionConfig,
    Deletion,
    DenseCandidates,
    Document,
    Equals,
    Filter,
    Negation,
    NewPassage,
    Range,
    Upsert,
    Vector,
)
from shortlist_server.storage.base import Selection
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.store import EmbeddedStore

DIMENSION = 384
CLUSTER = 100
FAMILY = 20
"""Number of clusters whose centres lie near each other, like topics of one field."""
SPREAD = 1.0
LIMIT = 10
GROUP = 1000
EFS = (10, 20, 40, 60, 80, 100, 150, 200, 400, 800)

Vectors = NDArray[np.float32]


def search_dense(
    collection: EmbeddedCollection, vector: Vector, documents: int, selection: Selection | None = None
) -> DenseCandidates:
    """A dense search of the serving generation."""
    with collection.read_generation() as serving:
        return serving.dense(vector, documents, selection)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    options = parser.parse_args()
    rows = 20_000 if options.quick else options.rows
    random = np.random.default_rng(1)
    families = unit(random.standard_normal((max(2, rows // CLUSTER // FAMILY), DIMENSION)))
    centres = around(random, families[random.integers(0, len(families), rows // CLUSTER)])
    clusters = random.integers(0, len(centres), rows)
    vectors = around(random, centres[clusters])
    asked = random.integers(0, len(centres), options.queries)
    queries = around(random, centres[asked])
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), vectors, clusters, queries, asked)


def run(
    folder: Path, vectors: Vectors, clusters: NDArray[np.int64], queries: Vectors, asked: NDArray[np.int64]
) -> None:
    rows = len(vectors)
    bars: list[Bar] = []
    figures: dict[str, Any] = {"rows": rows, "dimension": DIMENSION, "queries": len(queries)}
    store = EmbeddedStore(Config(data_dir=folder / "data"), maintain=False)
    collection = store.create("c", configuration())
    start = time.perf_counter()
    fill(collection, vectors, clusters, range(rows))
    figures["commit_rows_per_second"] = rows / (time.perf_counter() - start)
    collection.flush_now()
    collection.merge_now()
    truth = np.asarray(queries @ vectors.T)
    alive = np.ones(rows, dtype=np.bool_)

    def plain(query: Vectors) -> DenseCandidates:
        return search_dense(collection, query, LIMIT)

    found, took = measure(collection, plain, queries)
    recall = recall_at(found, truth, alive)
    bare_ms, bare_load = bare(folder / "bare.hnsw", vectors, queries, truth, recall)
    bars.append(at_least("recall@10", recall, 0.98))
    bars.append(at_most("p50 over bare hnswlib at the same recall", percentile(took, 0.5) / bare_ms, 2))
    figures["unfiltered_p50_ms"], figures["bare_p50_ms"] = percentile(took, 0.5), bare_ms
    unfiltered = percentile(took, 0.5)

    for name, filter, passing in filters(rows, clusters):
        measure_filter(bars, figures, collection, name, filter, [passing] * len(queries), queries, truth, unfiltered)
    grouped(bars, figures, collection, clusters, asked, queries, truth, unfiltered)

    start = time.perf_counter()
    store.close()
    store = EmbeddedStore(Config(data_dir=folder / "data"), maintain=False)
    before = anonymous_bytes()
    start = time.perf_counter()
    collection = store.open("c")
    search_dense(collection, queries[0], LIMIT)
    ready = time.perf_counter() - start
    info = collection.info()
    graph = sum(
        (collection.folder / "segments" / s.uid / "graph.hnsw").stat().st_size for s in collection.stats().segments
    )
    # The graph's file holds the vectors and the links, which is all that bare hnswlib keeps in memory.
    bars.append(at_most("seconds to open, less 3 x the bare load", ready - 3 * bare_load, 2))
    bars.append(at_most("anonymous memory over graph and vectors", (anonymous_bytes() - before) / graph, 1.5))
    figures |= {"open_seconds": ready, "bare_load_seconds": bare_load, "disk_bytes_per_row": info.disk_bytes / rows}

    random = np.random.default_rng(2)
    touched = random.choice(rows, rows // 5, replace=False)
    replaced, deleted = touched[: len(touched) // 2], touched[len(touched) // 2 :]
    vectors[replaced] = around(random, unit(vectors[replaced]))
    fill(collection, vectors, clusters, replaced.tolist())
    for start_row in range(0, len(deleted), GROUP):
        collection.commit([Deletion(id=str(row)) for row in deleted[start_row : start_row + GROUP]]).result()
    collection.flush_now()
    collection.merge_now()
    alive[deleted] = False
    truth = np.asarray(queries @ vectors.T)
    found, took = measure(collection, lambda query: search_dense(collection, query, LIMIT), queries)
    recall = recall_at(found, truth, alive)
    changed_bare, _ = bare(folder / "changed.hnsw", vectors[alive], queries, truth[:, alive], recall)
    bars.append(at_least("recall@10, a fifth replaced or deleted", recall, 0.98))
    bars.append(at_most("p50 over bare hnswlib, a fifth replaced or deleted", percentile(took, 0.5) / changed_bare, 2))
    figures["changed_p50_ms"] = percentile(took, 0.5)
    store.close()
    finish("ann", bars, **figures)


def unit(vectors: NDArray[Any]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def around(random: np.random.Generator, centres: Vectors) -> Vectors:
    """A vector near each centre, at a cosine of about 0.7."""
    return unit(centres + SPREAD / np.sqrt(DIMENSION) * random.standard_normal(centres.shape))


def configuration() -> CollectionConfig:
    return CollectionConfig(
        embedder="none",
        embedder_revision="",
        dimension=DIMENSION,
        reranker="none",
        chunking=Chunking(max_tokens=128, overlap_tokens=0),
        filterable_fields=("row", "cluster"),
    )


def fill(collection: EmbeddedCollection, vectors: Vectors, clusters: NDArray[np.int64], rows: Any) -> None:
    waiting = []
    for start in range(0, len(rows), GROUP):
        changes = [
            Upsert(
                document=Document(id=str(row), metadata={"row": int(row), "cluster": int(clusters[row])}),
                passages={1: [NewPassage(start=0, end=0, vector=vectors[row], tokens=1)]},
                content_hash=b"",
            )
            for row in rows[start : start + GROUP]
        ]
        waiting.append(collection.commit(changes))
    for future in waiting:
        future.result()


def measure(
    collection: EmbeddedCollection, search: Callable[[Vectors], DenseCandidates], queries: Vectors
) -> tuple[list[list[int]], list[float]]:
    """The rows found for each query, and the milliseconds each search took."""
    answers, took = [], []
    for query in queries[:20]:
        search(query)
    for query in queries:
        start = time.perf_counter()
        answers.append(search(query))
        took.append((time.perf_counter() - start) * 1e3)
    return [ids(collection, answer.keys.tolist()) for answer in answers], took


def ids(collection: EmbeddedCollection, keys: list[int]) -> list[int]:
    with collection.reading() as connection:
        statement = "SELECT id FROM documents WHERE key = ?"
        return [int(connection.execute(statement, (key,)).fetchone()[0]) for key in keys]


def recall_at(found: list[list[int]], truth: Vectors, passing: NDArray[np.bool_] | list[NDArray[np.bool_]]) -> float:
    """Mean share of the true ten nearest passing rows that the searches found. Ties count as found."""
    shares = []
    for at, (rows, scores) in enumerate(zip(found, truth, strict=True)):
        mask = passing[at] if isinstance(passing, list) else passing
        allowed = np.where(mask, scores, -np.inf)
        count = min(LIMIT, int(mask.sum()))
        if not count:
            continue
        least = np.partition(allowed, len(allowed) - count)[len(allowed) - count]
        shares.append(sum(allowed[row] >= least - 1e-6 for row in rows[:count]) / count)
    return float(np.mean(shares))


def bare(path: Path, vectors: Vectors, queries: Vectors, truth: Vectors, recall: float) -> tuple[float, float]:
    """Median milliseconds of bare hnswlib at the lowest ``ef`` that reaches this recall, and seconds to load it."""
    graph = hnswlib.Index(space="ip", dim=DIMENSION)
    graph.init_index(max_elements=len(vectors), M=16, ef_construction=200)
    graph.add_items(vectors, np.arange(len(vectors)), num_threads=os.cpu_count())
    graph.save_index(str(path))
    del graph
    loaded = hnswlib.Index(space="ip", dim=DIMENSION)
    start = time.perf_counter()
    loaded.load_index(str(path))
    load_seconds = time.perf_counter() - start
    everything = np.ones(len(vectors), dtype=np.bool_)
    took: list[float] = []
    for ef in EFS:
        loaded.set_ef(ef)
        found, took = [], []
        for query in queries:
            start = time.perf_counter()
            rows, _ = loaded.knn_query(query, k=LIMIT, num_threads=1)
            took.append((time.perf_counter() - start) * 1e3)
            found.append(rows[0].tolist())
        if recall_at(found, truth, everything) >= recall - 0.001:
            break
    return percentile(took, 0.5), load_seconds


def filters(rows: int, clusters: NDArray[np.int64]) -> list[tuple[str, Filter, NDArray[np.bool_]]]:
    """Filters unrelated to any query, by the share of rows that pass them."""
    made: list[tuple[str, Filter, NDArray[np.bool_]]] = []
    for share in (0.0001, 0.01, 0.1, 0.5, 0.99):
        bound = max(1, int(share * rows))
        passing = np.arange(rows) < bound
        made.append((f"{share:.2%}", Range(("row",), upper=float(bound), upper_inclusive=False), passing))
    return made


def grouped(
    bars: list[Bar],
    figures: dict[str, Any],
    collection: EmbeddedCollection,
    clusters: NDArray[np.int64],
    asked: NDArray[np.int64],
    queries: Vectors,
    truth: Vectors,
    unfiltered: float,
) -> None:
    """Filters for the query's own cluster, for all other clusters, and for the half of the clusters without it."""
    groups: list[tuple[str, Callable[[int], Filter], Callable[[int], NDArray[np.bool_]]]] = [
        ("own cluster", lambda c: Equals(("cluster",), float(c)), lambda c: clusters == c),
        ("all but the own cluster", lambda c: Negation(Equals(("cluster",), float(c))), lambda c: clusters != c),
        (
            "the half without the own cluster",
            lambda c: (
                Range(("cluster",), lower=float(half(clusters)))
                if c < half(clusters)
                else Range(("cluster",), upper=float(half(clusters)), upper_inclusive=False)
            ),
            lambda c: clusters >= half(clusters) if c < half(clusters) else clusters < half(clusters),
        ),
    ]
    for name, filter_of, passing_of in groups:
        some = slice(0, 60)
        selections = {int(c): collection.select(filter_of(int(c))) for c in asked[some]}
        searches = [(query, selections[int(c)]) for query, c in zip(queries[some], asked[some], strict=True)]
        answers, took = [], []
        for query, selection in searches:
            search_dense(collection, query, LIMIT, selection)
            start = time.perf_counter()
            answers.append(search_dense(collection, query, LIMIT, selection))
            took.append((time.perf_counter() - start) * 1e3)
        found = [ids(collection, answer.keys.tolist()) for answer in answers]
        passing = [passing_of(int(c)) for c in asked[some]]
        report(bars, figures, name, found, truth[some], passing, took, unfiltered, answers)


def half(clusters: NDArray[np.int64]) -> int:
    return int(clusters.max()) // 2


def measure_filter(
    bars: list[Bar],
    figures: dict[str, Any],
    collection: EmbeddedCollection,
    name: str,
    filter: Filter,
    passing: list[NDArray[np.bool_]],
    queries: Vectors,
    truth: Vectors,
    unfiltered: float,
) -> None:
    selection = collection.select(filter)
    answers: list[DenseCandidates] = []

    def search(query: Vectors) -> DenseCandidates:
        answers.append(search_dense(collection, query, LIMIT, selection))
        return answers[-1]

    found, took = measure(collection, search, queries)
    report(bars, figures, name, found, truth, passing, took, unfiltered, answers)


def report(
    bars: list[Bar],
    figures: dict[str, Any],
    name: str,
    found: list[list[int]],
    truth: Vectors,
    passing: list[NDArray[np.bool_]],
    took: list[float],
    unfiltered: float,
    answers: list[DenseCandidates],
) -> None:
    missing = sum(
        max(0, min(LIMIT, int(mask.sum())) - len(set(rows))) for rows, mask in zip(found, passing, strict=True)
    )
    wrong = sum(not mask[row] for rows, mask in zip(found, passing, strict=True) for row in rows)
    bars.append(at_least(f"recall@10, filter {name}", recall_at(found, truth, passing), 0.99))
    bars.append(at_most(f"hits missing or wrong, filter {name}", missing + wrong, 0))
    bars.append(at_most(f"p50 over unfiltered, filter {name}", percentile(took, 0.5) / unfiltered, 10))
    figures[f"filter {name}"] = {
        "p50_ms": percentile(took, 0.5),
        "strategies": Counter(answer.strategy.value for answer in answers),
    }


def anonymous_bytes() -> int:
    """Bytes of this process's memory that no file backs."""
    memory = psutil.Process().memory_full_info()
    return int(memory.rss - memory.shared)


if __name__ == "__main__":
    main()
