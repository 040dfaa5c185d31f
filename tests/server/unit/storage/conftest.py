"""A real store in a temporary folder, and documents with made-up vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Document, NewPassage, Upsert, Vector
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.opening.opened import OpenCollection
from shortlist_server.storage.store import EmbeddedStore

DIMENSION = 16


def collection_config(dimension: int = DIMENSION, fields: tuple[str, ...] = ()) -> CollectionConfig:
    return CollectionConfig(
        embedder="none",
        embedder_revision="",
        dimension=dimension,
        reranker="none",
        chunking=Chunking(max_tokens=128, overlap_tokens=32),
        filterable_fields=fields,
    )


def unit(values: ArrayLike) -> NDArray[np.float32]:
    vector = np.asarray(values, dtype=np.float32)
    norms: NDArray[np.float32] = np.linalg.norm(vector, axis=-1, keepdims=True)
    return vector / norms


def opened(collection: EmbeddedCollection) -> OpenCollection:
    """What the collection has in memory while it is open."""
    now = collection._lifecycle.opened
    assert now is not None
    return now


class Maker:
    """Makes upserts with vectors drawn from a seeded generator, and remembers the vectors by id."""

    def __init__(self, seed: int = 0, dimension: int = DIMENSION) -> None:
        self.random = np.random.default_rng(seed)
        self.dimension = dimension
        self.vectors: dict[str, NDArray[np.float32]] = {}

    def vector(self) -> Vector:
        return unit(self.random.standard_normal(self.dimension))

    def upsert(self, id: str, passages: int = 1, text: str = "", title: str = "", **metadata: Any) -> Upsert:
        vectors = unit(self.random.standard_normal((passages, self.dimension)))
        self.vectors[id] = vectors
        return Upsert(
            document=Document(id=id, title=title, text=text, metadata=metadata),
            passages={1: [NewPassage(start=i, end=i + 1, vector=v, tokens=3) for i, v in enumerate(vectors)]},
            content_hash=f"{id}{text}".encode(),
        )


class OpenStore(Protocol):
    """Opens a store on the test's folder, with options of ``Config`` and of ``EmbeddedStore``."""

    def __call__(self, **options: Any) -> EmbeddedStore: ...


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Opens stores on one folder; closes what the test left open."""
    stores: list[EmbeddedStore] = []

    def open_store(**options: Any) -> EmbeddedStore:
        changes = {name: options.pop(name) for name in list(options) if hasattr(Config(), name)}
        config = Config(data_dir=tmp_path / "data", segment_min_passages=64).replace(**changes)
        store = EmbeddedStore(config, **options)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> EmbeddedStore:
    return open_store()


@pytest.fixture
def collection(store: EmbeddedStore) -> EmbeddedCollection:
    return store.create("papers", collection_config())
