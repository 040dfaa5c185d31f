"""The data that every peer is measured on: clustered vectors with their true nearest rows, and a judged collection.

The data is written to a folder once, and every peer reads the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shortlist_cli.evaluation.beir import load_dataset

Vectors = NDArray[np.float32]

DIMENSION = 384
CLUSTERS = 200
LIMIT = 10
FILTERS = (1, 10)
"""Bounds of the filters: rows pass whose bucket, 0 to 99, is below. 1 % and 10 % pass, in every cluster alike."""

TEXT_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The sizes of a run.

    Attributes:
        rows, queries: number of vectors, and of searches for the nearest of them.
        more: rows of each round that is added during searches.
        batch: rows of one call or transaction.
        crash_batch: as ``batch``, in the phase that is killed.
        beside_seconds: longest time of searches during an ingest.
        documents: number of documents of the judged collection; None for all.
    """

    rows: int
    queries: int
    more: int
    batch: int
    crash_batch: int
    beside_seconds: float
    documents: int | None


FULL = Size(rows=100_000, queries=1000, more=20_000, batch=1000, crash_batch=200, beside_seconds=30, documents=None)
QUICK = Size(rows=3000, queries=50, more=1000, batch=500, crash_batch=100, beside_seconds=5, documents=400)


def write_vectors(folder: Path, size: Size, *, seed: int = 1) -> None:
    """Unit vectors around random centres, like embeddings; queries come from the same distribution."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((CLUSTERS, DIMENSION), dtype=np.float32)

    def draw(count: int) -> Vectors:
        noise = 0.7 * random.standard_normal((count, DIMENSION), dtype=np.float32)
        made = centres[random.integers(0, CLUSTERS, count)] + noise
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)

    vectors, queries, more = draw(size.rows), draw(size.queries), draw(size.more)
    buckets = random.permutation(size.rows) % 100
    truths = {"truth": nearest(vectors, queries, np.arange(size.rows))}
    for below in FILTERS:
        truths[f"truth_{below}"] = nearest(vectors, queries, np.flatnonzero(buckets < below))
    arrays: dict[str, np.ndarray] = {"vectors": vectors, "queries": queries, "more": more, "buckets": buckets, **truths}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def nearest(vectors: Vectors, queries: Vectors, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The nearest of ``rows`` to each query by an exact scan, shape (queries, LIMIT); -1 fills missing ones."""
    found = np.full((len(queries), LIMIT), -1, dtype=np.int64)
    for start in range(0, len(queries), 100):
        scores = queries[start : start + 100] @ vectors[rows].T
        wanted = min(LIMIT, len(rows))
        top = np.argsort(-scores, axis=1)[:, :wanted]
        found[start : start + 100, :wanted] = rows[top]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A judged collection: texts by position, and grades by query and document position."""

    name: str
    embedder: str
    documents: Sequence[Mapping[str, str]]
    queries: Sequence[str]
    grades: Mapping[str, Mapping[str, int]]


def read_text(folder: Path, split: str, size: Size, embedder: str) -> Text:
    """Reads a BEIR folder; with ``size.documents`` only the judged documents and the first of the others."""
    dataset = load_dataset(folder, split)
    queries = dict(list(dataset.queries.items())[: size.queries if size.documents else None])
    judged = {id for query in queries for id in dataset.qrels[query]}
    documents = list(dataset.documents())
    if size.documents is not None:
        others = [document for document in documents if document.id not in judged]
        documents = [d for d in documents if d.id in judged] + others[: max(0, size.documents - len(judged))]
    places = {document.id: str(place) for place, document in enumerate(documents)}
    return Text(
        name=f"{folder.resolve().name}/{split}",
        embedder=embedder,
        documents=[{"title": document.title, "text": document.text} for document in documents],
        queries=list(queries.values()),
        grades={
            str(number): {places[id]: grade for id, grade in dataset.qrels[query].items() if id in places}
            for number, query in enumerate(queries)
        },
    )


def write_text(folder: Path, text: Text, cache: Path) -> None:
    """Embeds the first window of each document, and each query, with Shortlist's embedder; cached."""
    key = hashlib.sha256(json.dumps([text.embedder, TEXT_TOKENS, list(text.documents), text.queries]).encode())
    kept = cache / f"text-{key.hexdigest()[:16]}.npz"
    if not kept.exists():
        documents, queries = asyncio.run(_embed(text, cache))
        np.savez(kept, documents=documents, queries=queries)
    with np.load(kept) as arrays:
        np.save(folder / "text_documents.npy", arrays["documents"])
        np.save(folder / "text_queries.npy", arrays["queries"])


async def _embed(text: Text, cache: Path) -> tuple[Vectors, Vectors]:
    from shortlist_server.config import Config
    from shortlist_server.domain import Chunking, Deadline, OverflowPolicy
    from shortlist_server.inference.catalog import load_models

    models = load_models(Config(data_dir=cache / "models", embedders=(text.embedder,)))
    try:
        embedder = models.embedder(text.embedder.partition("=")[0])
        dimension, window = embedder.info.dimension, min(TEXT_TOKENS, embedder.info.max_tokens)
        chunking = Chunking(max_tokens=window, overlap_tokens=0)
        passages = [
            embedder.cut(row["title"], row["text"], chunking, OverflowPolicy.TRUNCATE).passages[0]
            for row in text.documents
        ]
        found: list[Any] = []
        for start in range(0, len(passages), 256):
            some = await embedder.embed_passages(
                passages[start : start + 256], dimension=dimension, token_vectors=False
            )
            found.extend(some)
        queries = [
            await embedder.embed_query(query, instruction="", dimension=dimension, deadline=Deadline.after(60))
            for query in text.queries
        ]
    finally:
        models.close()
    return np.stack([one.vector for one in found]), np.stack([one.vector for one in queries])
