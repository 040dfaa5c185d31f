"""Commits to more collections than may be open, run as a process that is killed: ``python load_many.py FOLDER SEED``.

Prints ``NUMBER ID`` when a document of a collection was acknowledged. Importable: the test uses its settings.
"""

from __future__ import annotations

import os
import random
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Commit, Document, NewPassage, Upsert
from shortlist_server.storage.store import EmbeddedStore

DIMENSION = 4
COLLECTIONS = 8
CONFIG = CollectionConfig(
    embedder="none",
    embedder_revision="",
    dimension=DIMENSION,
    reranker="none",
    chunking=Chunking(max_tokens=16, overlap_tokens=0),
)


def configuration(folder: Path) -> Config:
    return Config(data_dir=folder, max_open_collections=2, segment_min_passages=16)


def name_of(number: int) -> str:
    return f"c{number}"


def upsert(id: str, generator: np.random.Generator) -> Upsert:
    vector = generator.standard_normal(DIMENSION).astype(np.float32)
    passage = NewPassage(start=0, end=1, vector=vector / np.linalg.norm(vector), tokens=1)
    return Upsert(document=Document(id=id, text="fox"), passages={1: [passage]}, content_hash=b"")


def run(folder: Path, seed: int) -> None:
    chance, generator = random.Random(seed), np.random.default_rng(seed)
    store = EmbeddedStore(configuration(folder))
    for number in range(COLLECTIONS):
        store.create(name_of(number), CONFIG)
    serial = 0
    while True:
        waiting: list[tuple[int, str, Future[Commit]]] = []
        for _ in range(chance.randrange(1, 6)):
            number, id = chance.randrange(COLLECTIONS), f"d{serial}"
            serial += 1
            waiting.append((number, id, store.find(name_of(number)).commit([upsert(id, generator)])))
        for number, id, future in waiting:
            future.result(60)
            os.write(1, f"{number} {id}\n".encode())


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
