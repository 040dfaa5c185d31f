"""Damage in a generation that does not serve leaves the one that serves alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from shortlist_server.domain import (
    BuiltDocument,
    Deletion,
    NewPassage,
)
from shortlist_server.errors import (
    GenerationNotReady,
)

from .conftest import DIMENSION, OpenStore, collection_config
from .generations import OTHER, built, config, fill, gone, nearest, of, vector, wait_until


def damage(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM vectors_2 WHERE label = (SELECT max(label) FROM vectors_2)",
        "UPDATE vectors_2 SET vector = zeroblob(32) WHERE label = (SELECT max(label) FROM vectors_2)",
        "DELETE FROM passages_2 WHERE label = (SELECT max(label) FROM passages_2)",
        "DROP TABLE token_vectors_2",
        "UPDATE generations SET config = substr(config, 2) WHERE number = 2",
        "UPDATE generations SET state = 'serving' WHERE number = 2",
    ],
)
def test_damage_in_another_generation_does_not_touch_the_one_that_serves(open_store: OpenStore, sql: str) -> None:
    store = open_store(maintain=False)
    collection = store.create("papers", collection_config())
    fill(collection, range(5))
    collection.create_generation(config()).result(30)
    built(collection, 2)
    store.close()
    damage(collection.folder / "collection.db", sql)
    store = open_store(maintain=False)
    collection = store.open("papers")
    assert nearest(collection, vector(3, DIMENSION))[0] == "d3"
    assert of(collection, 2).problem
    with pytest.raises(GenerationNotReady, match="cannot be used"):
        collection.read_generation(2)
    with pytest.raises(GenerationNotReady, match="cannot be used"):
        collection.switch_generation(2).result(30)
    fill(collection, [3, 8], 2)
    collection.commit([Deletion(id="d1")]).result(30)
    report = store.verify("papers")
    assert [check.name for check in report.checks if not check.ok] == ["damage of generation 2"]
    repaired = store.verify("papers", repair=True)
    assert repaired.ok
    assert "generation 2 was dropped; build it again" in repaired.repairs
    wait_until(lambda: gone(collection, 2))
    collection.create_generation(config()).result(30)
    assert built(collection, 3).progress.done_documents == 5


def test_verify_finds_damage_in_a_generation_that_is_open_and_repair_drops_it(open_store: OpenStore) -> None:
    store = open_store(maintain=False)
    collection = store.create("papers", collection_config())
    fill(collection, range(5))
    collection.create_generation(config()).result(30)
    built(collection, 2)
    damage(collection.folder / "collection.db", "UPDATE passages_2 SET tokens = 99 WHERE label = 7")
    names = [check.name for check in store.verify("papers").checks if not check.ok]
    assert names == ["checksums of passages of generation 2"]
    assert store.verify("papers", repair=True).ok
    assert collection.generations()[0].number == 1
    assert nearest(collection, vector(3, DIMENSION))[0] == "d3"


def test_damage_that_a_write_meets_in_another_generation_does_not_fail_the_write(open_store: OpenStore) -> None:
    store = open_store(maintain=False)
    collection = store.create("papers", collection_config())
    fill(collection, range(200))
    collection.create_generation(config()).result(30)
    documents, cursor = collection.documents_to_build(2, 500, 1 << 20)
    made = [
        BuiltDocument(
            key=one.key,
            passages=[NewPassage(start=0, end=1, vector=vector(1, OTHER), tokens=1, token_vectors=b"x" * 2000)],
        )
        for one in documents
    ]
    collection.build(2, made, cursor, tokens=1).result(30)
    store.close()
    path = collection.folder / "collection.db"
    connection = sqlite3.connect(path)
    # A page in the middle of the token vectors, which nothing reads when the collection is opened.
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'token_vectors_2'").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(path.read_bytes())
    children = [
        at
        for at in range(0, len(content), size)
        if content[at : at + 1] == b"\x0d" and b"x" * 500 in content[at : at + size]
    ]
    assert content[(root - 1) * size] == 5
    page = children[len(children) // 2]
    content[page : page + size] = b"\xff" * size
    path.write_bytes(content)
    store = open_store(maintain=False)
    collection = store.open("papers")
    assert of(collection, 2).progress.complete
    collection.commit([Deletion(id=f"d{number}") for number in range(200)]).result(30)
    assert collection.count(None) == 0
    assert of(collection, 2).problem
    with pytest.raises(GenerationNotReady):
        collection.read_generation(2)
    fill(collection, [7], 2)
    assert nearest(collection, vector(7, DIMENSION)) == ["d7"]
    store.close()
    collection = open_store(maintain=False).open("papers")
    assert of(collection, 2).problem
    assert nearest(collection, vector(7, DIMENSION)) == ["d7"]
