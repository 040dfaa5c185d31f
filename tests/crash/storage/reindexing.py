"""Generations come and go while documents change: ``python reindexing.py FOLDER SEED POINT NTH``.

The documents follow from the seed alone; what happens to generations is left to chance and to the threads. One thread
writes documents, one builds what generations lack, one makes, switches, rolls back and drops generations, and one
searches and exits with 1 if it sees a passage of another generation. Prints ``begin N`` and ``done N`` around the Nth
write, ``switching N`` and ``serving N`` around a switch, ``dropping N`` and ``dropped N`` around a drop. At the NTH
passing of the crash point POINT the process kills itself. It goes on with what is in FOLDER. Importable: the test uses
``problems`` and what it imports from ``churn``.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shortlist_server.domain import (
    BuiltDocument,
    Chunking,
    CollectionConfig,
    Commit,
    Deletion,
    Document,
    Equals,
    Generation,
    GenerationConfig,
    GenerationState,
    Include,
    NewPassage,
    Upsert,
)
from shortlist_server.errors import GenerationNotFound, GenerationNotReady, ShortlistError, Unavailable
from shortlist_server.storage.base import GenerationChanged, GenerationReader
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.store import EmbeddedStore

if TYPE_CHECKING:
    from . import churn, warm
    from .churn import Version
else:
    import churn
    import warm

LEFT_OUT = 0.1
"""How often the model of another generation fails for a whole write."""


def dimension(generation: int) -> int:
    return 6 + generation % 3


def made(text: str, generation: int) -> np.ndarray:
    """The vectors that a generation makes of a text."""
    chance = np.random.default_rng([generation, *text.encode()])
    vectors = chance.standard_normal((chance.integers(1, 4), dimension(generation)))
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def passages(text: str, generation: int) -> list[NewPassage]:
    mark = b"%d" % generation
    return [
        NewPassage(start=0, end=1, vector=vector, tokens=1, token_vectors=mark) for vector in made(text, generation)
    ]


def change(id: str, version: Version | None, generations: list[int]) -> Upsert | Deletion:
    if version is None:
        return Deletion(id=id)
    return Upsert(
        document=Document(id=id, text=version.text, metadata={"bucket": version.bucket}),
        passages={generation: passages(version.text, generation) for generation in generations},
        content_hash=version.text.encode(),
    )


def config(generation: int) -> GenerationConfig:
    return GenerationConfig(
        embedder="e",
        embedder_revision=f"r{generation}",
        dimension=dimension(generation),
        chunking=Chunking(max_tokens=16, overlap_tokens=0),
    )


def collection_config() -> CollectionConfig:
    return CollectionConfig(
        embedder="e",
        embedder_revision="r1",
        dimension=dimension(1),
        reranker="none",
        chunking=Chunking(max_tokens=16, overlap_tokens=0),
    )


def live(collection: EmbeddedCollection) -> list[Generation]:
    return [one for one in collection.generations() if one.state is not GenerationState.DROPPING]


def texts(collection: EmbeddedCollection) -> dict[str, str]:
    """The text of each document, by id."""
    found = collection.documents_by_id([f"d{i}" for i in range(churn.IDS)], Include())
    return {id: document.text for id, document in found.items()}


def problems(collection: EmbeddedCollection, stored: Mapping[str, str]) -> list[str]:
    """What is wrong with a collection that should have these texts, in any of its generations."""
    wrong = []
    known = live(collection)
    for generation in known:
        with collection.read_generation(generation.number) as reader:
            wrong += problems_of(reader, generation, collection, stored)
    if collection.config.embedder_revision != f"r{collection.generation}":
        wrong.append("the settings are those of another generation")
    return wrong


def problems_of(
    reader: GenerationReader, generation: Generation, collection: EmbeddedCollection, stored: Mapping[str, str]
) -> list[str]:
    number, wrong = generation.number, []
    names = {key: id for id, key in collection.keys(list(stored)).items()}
    documents = reader.documents(list(names), Include(vectors=True)).values()
    held = {one.id: np.array([passage.vector for passage in one.passages]) for one in documents if one.passages}
    for id, vectors in held.items():
        if not np.array_equal(vectors, made(stored[id], number)):
            wrong.append(f"generation {number} has other passages of {id} than it made")
    complete = reader.complete
    if complete and held.keys() != stored.keys():
        wrong.append(f"generation {number} is complete, but lacks {sorted(stored.keys() - held.keys())[:5]}")
    if generation.state is GenerationState.SERVING and not complete:
        wrong.append(f"generation {number} serves and is not complete")
    chance = np.random.default_rng(len(stored))
    for query in chance.standard_normal((4, dimension(number))).astype(np.float32):
        best = {id: float(np.max(vectors @ query)) for id, vectors in held.items()}
        for limit, exact in ((10, True), (churn.IDS, False)):
            found = reader.dense(query, limit, exact=exact)
            got = list(dict.fromkeys(names[key] for key in found.keys.tolist()))
            right = sorted(best.values(), reverse=True)[:limit]
            if len(got) != len(right) or not np.allclose([best[id] for id in got], right, atol=1e-5):
                wrong.append(f"a search of generation {number} (limit {limit}, exact {exact}) differs from brute force")
        marks = {one.token_vectors for one in reader.passages(found.passage_ids.tolist(), token_vectors=True).values()}
        if marks - {b"%d" % number}:
            wrong.append(f"generation {number} has passages of others: {marks}")
    return wrong


class Threads:
    """The threads beside the writing one; any unexpected error in them ends the process with 1."""

    def __init__(self, collection: EmbeddedCollection) -> None:
        self.collection = collection
        self.ended = threading.Event()
        works = (self.build, self.conduct, self.search)
        self.threads = [threading.Thread(target=self.go_on, args=(work,), daemon=True) for work in works]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def go_on(self, work: Callable[[], None]) -> None:
        while not self.ended.is_set():
            try:
                work()
            except (GenerationNotFound, GenerationNotReady, GenerationChanged):
                continue
            except Unavailable:
                return
            except BaseException:
                traceback.print_exc()
                os._exit(1)

    def build(self) -> None:
        """Builds a portion of a generation that lacks documents."""
        time.sleep(0.005)
        for generation in live(self.collection):
            if not generation.progress.complete:
                documents, cursor = self.collection.documents_to_build(generation.number, 25, 1 << 20)
                built = [
                    BuiltDocument(key=one.key, passages=passages(one.text, generation.number)) for one in documents
                ]
                self.collection.build(generation.number, built, cursor, tokens=len(built)).result(60)

    def conduct(self) -> None:
        """Makes a generation, lets one serve, or drops one."""
        time.sleep(random.random() * 0.15)
        known = {one.state: one for one in live(self.collection)}
        building, former = known.get(GenerationState.BUILDING), known.get(GenerationState.FORMER)
        draw = random.random()
        if building is None and draw < 0.6:
            churn.say(f"created {self.create()}")
        elif building is not None and building.progress.complete:
            self.switch(building.number)
        elif former is not None and draw < 0.8 and former.progress.complete:
            self.switch(former.number)
        elif draw > 0.85 and (one := former or building) is not None:
            churn.say(f"dropping {one.number}")
            self.collection.drop_generation(one.number).result(60)
            churn.say(f"dropped {one.number}")

    def create(self) -> int:
        """Makes a generation. Nobody else does, so its number is known before."""
        with self.collection.reading() as connection:
            (last,) = connection.execute("SELECT last_generation FROM counters").fetchone()
        return self.collection.create_generation(config(last + 1)).result(60).number

    def switch(self, number: int) -> None:
        churn.say(f"switching {number}")
        self.collection.switch_generation(number).result(60)
        churn.say(f"serving {number}")

    def search(self) -> None:
        """Searches the generation that serves, or another one, and sees its passages alone."""
        known = [None, *(one.number for one in live(self.collection))]
        with self.collection.read_generation(random.choice(known)) as reader:
            number = reader.number
            assert reader.config.dimension == dimension(number)
            assert reader.config.embedder_revision == f"r{number}"
            query = np.random.default_rng().standard_normal(dimension(number)).astype(np.float32)
            found = reader.dense(query, 20)
            time.sleep(random.random() * 0.02)
            stored = reader.passages(found.passage_ids.tolist(), token_vectors=True).values()
            assert {one.token_vectors for one in stored} <= {b"%d" % number}, (number, stored)
            for document in reader.documents(found.keys.tolist(), Include(passages=True, vectors=True)).values():
                expected = made(document.text, number)
                vectors = np.array([passage.vector for passage in document.passages])
                assert not len(vectors) or np.array_equal(vectors, expected), (number, document.id)


def write(collection: EmbeddedCollection, operation: dict[str, Version | None]) -> Future[Commit]:
    serving, *others = sorted(live(collection), key=lambda one: one.state is not GenerationState.SERVING)
    numbers = [serving.number, *(one.number for one in others if random.random() > LEFT_OUT)]
    return collection.commit([change(id, version, numbers) for id, version in operation.items()])


def run(folder: Path, seed: int, point: str, nth: int) -> int:
    address = str(folder.parent / f"builds-{os.getpid()}")
    warm.serve(address, churn.KILLED_BUILDS)
    builder = (sys.executable, "-I", "-S", warm.__file__, address)
    store = EmbeddedStore(churn.configuration(folder), crash_point=churn.killer(point, nth), builder=builder)
    collection = store.open("c") if "c" in store.names() else store.create("c", collection_config())
    churn.say("done -1")
    churn.say(f"serving {collection.generation}")
    threads = Threads(collection)
    for number, operation in churn.operations(seed):
        churn.say(f"begin {number}")
        while True:
            try:
                if isinstance(operation, float):
                    collection.delete_matching(Equals(("bucket",), operation)).result(60)
                else:
                    write(collection, operation).result(60)
                break
            except GenerationChanged:
                continue
        churn.say(f"done {number}")
        if number % churn.LOOK_EVERY == churn.LOOK_EVERY - 1:
            stats = collection.stats()
            churn.say(f"built {stats.flushes} {stats.merges}")
    threads.end()
    wrong = problems(collection, texts(collection))
    store.close()
    if wrong:
        churn.say(f"broken: {wrong}")
        return 1
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    try:
        sys.exit(run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
    except ShortlistError:
        traceback.print_exc()
        os._exit(1)
