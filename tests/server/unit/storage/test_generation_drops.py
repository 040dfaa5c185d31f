"""Generations are dropped: what still reads them, and the space that comes back."""

from __future__ import annotations

import threading

import pytest

from shortlist_server.domain import (
    BuiltDocument,
    GenerationState,
    Include,
    NewPassage,
)
from shortlist_server.errors import (
    GenerationNotFound,
    GenerationNotReady,
    Unavailable,
)
from shortlist_server.storage.collection import EmbeddedCollection

from .conftest import DIMENSION, OpenStore, collection_config, opened
from .generations import OTHER, built, config, fill, gone, of, tables, vector, wait_until


def test_a_search_stays_on_its_generation_whatever_is_switched_and_dropped(collection: EmbeddedCollection) -> None:
    fill(collection, range(20))
    collection.create_generation(config()).result(30)
    built(collection, 2)
    lease = collection.read_generation()
    reader = lease.collection
    collection.switch_generation(2).result(30)
    collection.drop_generation(1).result(30)
    assert (reader.number, reader.config.dimension) == (1, DIMENSION)
    found = reader.dense(vector(4, DIMENSION), 3)
    assert len(reader.passages(found.passage_ids.tolist(), vectors=True)) == 3
    assert reader.documents(found.keys.tolist(), Include(passages=True))[found.keys[0]].passage_count == 1
    with pytest.raises(GenerationNotFound):
        collection.read_generation(1)
    assert of(collection, 1).state is GenerationState.DROPPING
    lease.release()
    with pytest.raises(Unavailable):
        reader.dense(vector(4, DIMENSION), 3)
    wait_until(lambda: gone(collection, 1))
    assert not tables(collection) & {"passages", "vectors", "token_vectors"}


def test_a_search_that_never_ends_does_not_keep_a_dropped_generation(open_store: OpenStore) -> None:
    collection = open_store(max_deadline_seconds=0.2).create("papers", collection_config())
    fill(collection, range(5))
    collection.create_generation(config()).result(30)
    built(collection, 2)
    with collection.read_generation(2) as reader:
        collection.drop_generation(2).result(30)
        wait_until(lambda: gone(collection, 2))
        for read in (
            lambda: reader.dense(vector(1, OTHER), 1),
            lambda: reader.passages([1]),
            lambda: reader.documents([1], Include()),
        ):
            with pytest.raises(Unavailable, match="dropped"):
                read()


def test_the_generation_that_serves_is_not_dropped(collection: EmbeddedCollection) -> None:
    with pytest.raises(GenerationNotReady):
        collection.drop_generation(1).result(30)
    with pytest.raises(GenerationNotFound):
        collection.drop_generation(2).result(30)


def test_a_switch_to_a_third_generation_drops_the_former_one(collection: EmbeddedCollection) -> None:
    fill(collection, range(5))
    for number in (2, 3):
        collection.create_generation(config()).result(30)
        built(collection, number)
        collection.switch_generation(number).result(30)
    wait_until(lambda: gone(collection, 1))
    assert [(one.number, one.state) for one in collection.generations()] == [
        (2, GenerationState.FORMER),
        (3, GenerationState.SERVING),
    ]


def test_a_dropped_generation_gives_its_space_back(open_store: OpenStore) -> None:
    store = open_store(maintain=False)
    collection = store.create("papers", collection_config())
    fill(collection, range(200))
    path = collection.folder / "collection.db"
    collection.create_generation(config()).result(30)
    documents, cursor = collection.documents_to_build(2, 500, 1 << 20)
    large = b"x" * 20_000
    collection.build(
        2,
        [
            BuiltDocument(
                key=one.key,
                passages=[NewPassage(start=0, end=1, vector=vector(1, OTHER), tokens=1, token_vectors=large)],
            )
            for one in documents
        ],
        cursor,
        tokens=1,
    ).result(30)
    collection.flush_now()
    store.close()
    full = path.stat().st_size
    assert full > 200 * 20_000
    store = open_store(maintain=False)
    collection = store.open("papers")
    assert len(list((collection.folder / "segments").iterdir())) == 2
    assert of(collection, 2).disk_bytes > 200 * 20_000
    collection.drop_generation(2).result(30)
    wait_until(lambda: gone(collection, 2) and not opened(collection).busy)
    assert len(list((collection.folder / "segments").iterdir())) == 1
    store.close()
    assert path.stat().st_size < full // 4
    assert open_store(maintain=False).verify("papers").problems == []


def test_a_drop_that_was_interrupted_goes_on_at_the_next_opening(open_store: OpenStore) -> None:
    stop = threading.Event()

    def crash_point(point: str) -> None:
        if point == "drop:rows" and not stop.is_set():
            stop.set()
            raise OSError("stopped")

    store = open_store(crash_point=crash_point)
    collection = store.create("papers", collection_config())
    fill(collection, range(300))
    collection.create_generation(config()).result(30)
    built(collection, 2, limit=300)
    collection.drop_generation(2).result(30)
    assert stop.wait(30)
    store.close()
    collection = open_store().open("papers")
    wait_until(lambda: gone(collection, 2))
    assert not any(name.endswith("_2") for name in tables(collection))
    assert collection.generations()[-1].number == 1
