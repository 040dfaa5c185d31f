"""Documents with passages for several generations, and what the tests of generations ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import (
    BuiltDocument,
    Chunking,
    Document,
    Generation,
    GenerationConfig,
    NewPassage,
    Upsert,
    Vector,
)
from shortlist_server.storage.collection import EmbeddedCollection

from .conftest import DIMENSION, unit

OTHER = 8


def config(dimension: int = OTHER, revision: str = "r2") -> GenerationConfig:
    return GenerationConfig(
        embedder="other",
        embedder_revision=revision,
        dimension=dimension,
        chunking=Chunking(max_tokens=64, overlap_tokens=8),
        query_instruction="find",
        number_format="int8",
    )


def vector(number: int, dimension: int) -> NDArray[np.float32]:
    return unit(np.random.default_rng([number, dimension]).standard_normal(dimension))


def passages(number: int, dimension: int, count: int = 1) -> list[NewPassage]:
    return [
        NewPassage(start=0, end=1, vector=vector(number, dimension), tokens=2, token_vectors=b"%d" % dimension)
        for _ in range(count)
    ]


def upsert(number: int, *others: int, text: str = "fox") -> Upsert:
    """A document with passages for generation 1, and for the others named."""
    made = {1: passages(number, DIMENSION)} | {other: passages(number, OTHER, 2) for other in others}
    return Upsert(document=Document(id=f"d{number}", text=text), passages=made, content_hash=b"%d" % number)


def fill(collection: EmbeddedCollection, numbers: Sequence[int], *others: int) -> None:
    collection.commit([upsert(number, *others) for number in numbers]).result(30)


def built(collection: EmbeddedCollection, number: int, *, limit: int = 10) -> Generation:
    """Builds a generation until it is complete."""
    while True:
        documents, cursor = collection.documents_to_build(number, limit, 1 << 20)
        made = [BuiltDocument(key=one.key, passages=passages(int(one.id[1:]), OTHER, 2)) for one in documents]
        now = collection.build(number, made, cursor, tokens=4 * len(made)).result(30)
        if now.progress.complete:
            return now


def of(collection: EmbeddedCollection, number: int) -> Generation:
    return next(one for one in collection.generations() if one.number == number)


def nearest(collection: EmbeddedCollection, query: Vector, number: int | None = None) -> list[str]:
    """Ids of the nearest documents of a generation, all of them."""
    names = {key: id for id, key in collection.keys([f"d{i}" for i in range(300)]).items()}
    with collection.read_generation(number) as reader:
        found = reader.dense(query, 300)
        return list(dict.fromkeys(names[key] for key in found.keys.tolist()))


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def gone(collection: EmbeddedCollection, number: int) -> bool:
    return all(one.number != number for one in collection.generations())


def tables(collection: EmbeddedCollection) -> set[str]:
    with collection.reading() as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
