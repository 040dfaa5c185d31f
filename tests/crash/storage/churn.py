"""Replacements and deletions while segments are flushed and merged: ``python churn.py FOLDER SEED POINT NTH``.

Segments are tiny, so that builds never cease, and many vectors are equal. Every so often the process compares itself
with a dict and brute force, verifies its collection, and exits with 1 if anything differs: what is wrong in memory
alone is gone after a restart. Prints ``begin N`` and ``done N`` around the Nth operation, and what was built. At the
NTH passing of the crash point POINT it kills itself; some of its builds do so too. It goes on with what is in
FOLDER. Importable: the test uses ``operations``, ``apply``, ``stored`` and ``compare``.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shortlist_server.config import Config
from shortlist_server.domain import (
    Chunking,
    CollectionConfig,
    Commit,
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
from shortlist_server.errors import Unavailable
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.compactor import BuildFailed
from shortlist_server.storage.disk.files import CrashPoint
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.verify import verify_collection

if TYPE_CHECKING:
    from . import warm
else:
    import warm

DIMENSION = 8
IDS = 150
OPERATIONS = 300
LOOK_EVERY = 50
KILLED_BUILDS = 0.02
PAUSE = 0.05


@dataclass(frozen=True, eq=False)
class Version:
    """A document as it should be; ``vectors`` has shape (passages, DIMENSION)."""

    text: str
    bucket: float
    vectors: np.ndarray


Model = dict[str, Version]


def configuration(folder: Path) -> Config:
    return Config(data_dir=folder, segment_min_passages=24, segment_max_passages=400)


def collection_config() -> CollectionConfig:
    return CollectionConfig(
        embedder="none",
        embedder_revision="",
        dimension=DIMENSION,
        reranker="none",
        chunking=Chunking(max_tokens=16, overlap_tokens=0),
    )


def version(seed: int, number: int, id: str) -> Version:
    """What operation ``number`` of a seed makes of a document; one in three passages has one of three vectors."""
    chance = np.random.default_rng([seed, number, int(id[1:])])
    vectors = chance.standard_normal((chance.integers(1, 4), DIMENSION))
    for at in range(len(vectors)):
        if chance.random() < 1 / 3:
            vectors[at] = np.eye(DIMENSION)[chance.integers(3)]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Version(f"version {seed} {number} common", float(number % 11), vectors)


def change(id: str, version: Version | None) -> Upsert | Deletion:
    if version is None:
        return Deletion(id=id)
    return Upsert(
        document=Document(id=id, text=version.text, metadata={"bucket": version.bucket}),
        passages={1: [NewPassage(start=0, end=1, vector=vector, tokens=1) for vector in version.vectors]},
        content_hash=version.text.encode(),
    )


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


def stored(collection: EmbeddedCollection) -> Model:
    """The documents that a collection has."""
    keys = collection.keys([f"d{i}" for i in range(IDS)])
    documents = read_documents(collection, list(keys.values()), Include(vectors=True)).values()
    return {
        d.id: Version(d.text, d.metadata["bucket"], np.array([passage.vector for passage in d.passages]))
        for d in documents
    }


def operations(seed: int) -> Iterator[tuple[int, dict[str, Version | None] | float]]:
    """Versions to write in one commit, None where a document is deleted; or a bucket that is deleted by filter."""
    chance = random.Random(seed)
    for number in range(OPERATIONS):
        if chance.random() < 0.05:
            yield number, float(chance.randrange(11))
        else:
            ids = [f"d{chance.randrange(IDS)}" for _ in range(chance.choice((1, 1, 3, 12)))]
            yield number, {id: None if chance.random() < 0.25 else version(seed, number, id) for id in ids}


def apply(model: Model, operation: dict[str, Version | None] | float) -> None:
    gone = (
        [id for id, version in model.items() if version.bucket == operation]
        if isinstance(operation, float)
        else list(operation)
    )
    for id in gone:
        model.pop(id, None)
    if not isinstance(operation, float):
        model.update({id: version for id, version in operation.items() if version is not None})


def compare(collection: EmbeddedCollection, model: Model) -> list[str]:
    """What differs from a dict and brute force, and what verification finds."""
    problems = list(verify_collection(collection).problems)
    keys = collection.keys([f"d{i}" for i in range(IDS)])
    if keys.keys() != model.keys():
        problems.append(f"{len(keys)} documents where {len(model)} should be")
        return problems
    names = {key: id for id, key in keys.items()}
    chance = np.random.default_rng(len(model))
    queries = [*np.eye(DIMENSION)[:3], *chance.standard_normal((5, DIMENSION))]
    for query in (np.asarray(query / np.linalg.norm(query), dtype=np.float32) for query in queries):
        best = {id: float(np.max(version.vectors @ query)) for id, version in model.items()}
        for limit, exact in ((10, True), (10, False), (IDS, False)):
            found = search_dense(collection, query, limit, exact=exact)
            got = list(dict.fromkeys(names.get(key, "gone") for key in found.keys.tolist()))
            right = sorted(best.values(), reverse=True)[:limit]
            if len(got) != len(right) or not np.allclose([best.get(id, 9) for id in got], right, atol=1e-5):
                problems.append(f"dense search (limit {limit}, exact {exact}) differs from brute force: {got[:5]}")
    return problems


def killer(point: str, nth: int) -> CrashPoint:
    left = nth

    def crash_point(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return crash_point


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def run(folder: Path, seed: int, point: str, nth: int) -> int:
    address = str(folder.parent / f"builds-{os.getpid()}")
    warm.serve(address, KILLED_BUILDS)
    builder = (sys.executable, "-I", "-S", warm.__file__, address)
    store = EmbeddedStore(configuration(folder), crash_point=killer(point, nth), builder=builder)
    collection = store.open("c") if "c" in store.names() else store.create("c", collection_config())
    say("done -1")
    model = stored(collection)
    waiting: list[tuple[int, Future[Commit]]] = []
    for work in (collection.flush_now, collection.merge_now):
        threading.Thread(target=go_on, args=(work,), daemon=True).start()
    for number, operation in operations(seed):
        say(f"begin {number}")
        if isinstance(operation, float):
            collect(waiting)
            collection.delete_matching(Equals(("bucket",), operation)).result(60)
            say(f"done {number}")
        else:
            waiting.append((number, collection.commit([change(*item) for item in operation.items()])))
        apply(model, operation)
        if len(waiting) > 3 or number % LOOK_EVERY == LOOK_EVERY - 1:
            collect(waiting)
        if number % LOOK_EVERY == LOOK_EVERY - 1 and (problems := compare(collection, model)):
            say(f"broken at {number}: {problems}")
            return 1
        if number % 10 == 9:
            stats = collection.stats()
            say(f"built {stats.flushes} {stats.merges}")
            time.sleep(PAUSE)
    collect(waiting)
    store.close()
    return 0


def go_on(work: Callable[[], int]) -> None:
    """Builds without end, beside the collection's own compaction, which waits for more passages and quieter times."""
    while True:
        try:
            if not work():
                time.sleep(0.002)
        except Unavailable:
            return
        except BuildFailed as error:
            if "code -9" in str(error):
                continue
            if "closing" in str(error):
                return
            logging.exception("a build failed")
            os._exit(1)
        except BaseException:
            logging.exception("a build failed")
            os._exit(1)


def collect(waiting: list[tuple[int, Future[Commit]]]) -> None:
    for number, future in waiting:
        future.result(60)
        say(f"done {number}")
    waiting.clear()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    sys.exit(run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
