"""A random load on a store, run as a process that is killed: ``python load.py FOLDER SEED POINT NTH``.

Prints ``begin N`` before the Nth operation and ``done N`` when its durability was acknowledged. Operations follow from
the seed alone, so the test that started it knows what each of them was. At the NTH passing of the crash point POINT the
process kills itself; ``-`` is no point. Importable: the test uses ``operations`` and ``Model``.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from shortlist_server.config import Config
from shortlist_server.domain import (
    Chunking,
    CollectionConfig,
    Deletion,
    DenseCandidates,
    Document,
    Equals,
    Include,
    NewPassage,
    StoredDocument,
    Upsert,
    Vector,
)
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.builder import main as build_main
from shortlist_server.storage.disk.files import CrashPoint
from shortlist_server.storage.store import EmbeddedStore

DIMENSION = 8
IDS = 300
OPERATIONS = 120

Argument = list[Upsert | Deletion] | float | None
"""Of an operation: the changes to commit, the bucket to delete, or nothing."""


def configuration(folder: Path) -> Config:
    return Config(data_dir=folder, segment_min_passages=64, segment_max_passages=1000)


def upsert(seed: int, number: int, id: str) -> Upsert:
    generator = np.random.default_rng([seed, number, int(id[1:])])
    vectors = generator.standard_normal((1 + number % 3, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Upsert(
        document=Document(id=id, text=f"version {number} common", metadata={"bucket": number % 7}),
        passages={1: [NewPassage(start=0, end=1, vector=vector, tokens=1) for vector in vectors]},
        content_hash=str(number).encode(),
    )


def operations(seed: int) -> Iterator[tuple[int, str, Argument]]:
    """Yields (number, kind, argument): "commit" with changes, "delete" with a bucket, "backup", "other"."""
    chance = random.Random(seed)
    for number in range(OPERATIONS):
        draw = chance.random()
        if draw < 0.08:
            yield number, "delete", float(chance.randrange(7))
        elif draw < 0.12:
            yield number, "backup", None
        elif draw < 0.16:
            yield number, "other", None
        else:
            ids = [f"d{chance.randrange(IDS)}" for _ in range(chance.randrange(1, 60))]
            yield (
                number,
                "commit",
                [Deletion(id=id) if chance.random() < 0.2 else upsert(seed, number, id) for id in ids],
            )


def apply(model: dict[str, Upsert], kind: str, argument: Argument) -> None:
    if kind == "commit":
        assert isinstance(argument, list)
        for change in argument:
            if isinstance(change, Deletion):
                model.pop(change.id, None)
            else:
                model[change.document.id] = change
    elif kind == "delete":
        for id in [id for id, change in model.items() if change.document.metadata["bucket"] == argument]:
            del model[id]


def killer(point: str, nth: int) -> CrashPoint:
    left = nth

    def crash_point(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return crash_point


def read_documents(
    collection: EmbeddedCollection, keys: Sequence[int], include: Include
) -> Mapping[int, StoredDocument]:
    """Documents with their passages in the serving generation."""
    with collection.read_generation() as serving:
        return serving.documents(keys, include)


def search_dense(
    collection: EmbeddedCollection, vector: Vector, documents: int, *, exact: bool = False
) -> DenseCandidates:
    """A dense search of the serving generation."""
    with collection.read_generation() as serving:
        return serving.dense(vector, documents, exact=exact)


def collection_config() -> CollectionConfig:
    return CollectionConfig(
        embedder="none",
        embedder_revision="",
        dimension=DIMENSION,
        reranker="none",
        chunking=Chunking(max_tokens=16, overlap_tokens=0),
    )


def run(folder: Path, seed: int, point: str, nth: int) -> None:
    def say(text: str) -> None:
        os.write(1, f"{text}\n".encode())

    builder = (sys.executable, "-P", __file__, "build", "-")
    store = EmbeddedStore(configuration(folder), crash_point=killer(point, nth), builder=builder)
    say("begin -1")
    collection = store.create("c", collection_config())
    say("done -1")
    waiting = []
    for number, kind, argument in operations(seed):
        say(f"begin {number}")
        if kind == "commit":
            assert isinstance(argument, list)
            waiting.append((number, collection.commit(argument)))
        if kind != "commit" or len(waiting) > 2:
            for earlier, future in waiting:
                future.result(60)
                say(f"done {earlier}")
            waiting = []
        if kind == "delete":
            assert isinstance(argument, float)
            collection.delete_matching(Equals(("bucket",), argument)).result(60)
            say(f"done {number}")
        elif kind == "backup":
            store.backup(folder.parent / f"backup-{number}")
            say(f"done {number}")
        elif kind == "other":
            if "other" in store.names():
                store.drop("other")
            else:
                store.create("other", collection_config())
            say(f"done {number}")
        if number % 30 == 29:
            collection.flush_now()
        if number == 100:
            collection.merge_now()
    for earlier, future in waiting:
        future.result(60)
        say(f"done {earlier}")
    store.close()


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build_main(killer(sys.argv[2], 1))
    else:
        run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
