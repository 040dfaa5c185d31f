"""Each file of a data folder, damaged: named, rebuilt when it can be, refused with a typed error when it cannot."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import NEVER, Deletion, Include, StreamPosition
from shortlist_server.errors import DataCorrupted, NewerDataFormat, OutOfSpace, Unavailable
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.compactor import BuildFailed
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.layout import DATA_FILES, MANIFEST_FILE
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.verify import _sample

from .conftest import Maker, OpenStore, collection_config
from .reads import read_documents, read_passages, search_dense


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Maker]:
    """A closed store with collections a and b, of one flushed segment each, and what made its vectors."""
    maker = Maker()
    folder = tmp_path_factory.mktemp("template") / "data"
    store = EmbeddedStore(Config(data_dir=folder), maintain=False)
    for name in "ab":
        collection = store.create(name, collection_config())
        for _ in range("ab".index(name) + 1):
            changes = [maker.upsert(f"{name}{i}", text=f"fox {i}") for i in range(100)]
            for change in changes[60 : 90 - "ab".index(name)]:
                # Equal to a60's: so many are not all nodes of the graph.
                change.passages[1][0].vector[:] = changes[60].passages[1][0].vector
            collection.commit(changes).result(30)
        assert collection.flush_now() == 1
    store.close()
    return folder, maker


@pytest.fixture
def filled(template: tuple[Path, Maker], tmp_path: Path) -> Path:
    """The folder of collection a in a copy of the template."""
    shutil.copytree(template[0], tmp_path / "data")
    return tmp_path / "data" / "collections" / "a"


def truncate(file: Path, folder: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path, folder: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path, folder: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def delete(file: Path, folder: Path) -> None:
    file.unlink()


def replace(file: Path, folder: Path) -> None:
    other = next((folder.parent / "b" / "segments").iterdir())
    shutil.copyfile(other / file.name, file)


@pytest.mark.parametrize("harm", [truncate, empty, flip, delete, replace])
@pytest.mark.parametrize("name", [*DATA_FILES, MANIFEST_FILE])
def test_a_damaged_segment_file_is_named_and_the_segment_is_rebuilt(
    filled: Path, open_store: OpenStore, template: tuple[Path, Maker], harm: Callable[[Path, Path], None], name: str
) -> None:
    maker = template[1]
    file = next((filled / "segments").iterdir()) / name
    harm(file, filled)
    store = open_store(maintain=False)
    collection = store.open("a")
    assert len(collection.damage) == 1
    assert name in collection.damage[0].problem or "manifest" in collection.damage[0].problem
    for i in (0, 50, 99):
        key = collection.keys([f"a{i}"])[f"a{i}"]
        assert search_dense(collection, maker.vectors[f"a{i}"][0], 1).keys.tolist() == [key]
    report = store.verify("a")
    assert not report.ok
    assert any(name in problem for problem in report.problems) or "manifest" in str(report.problems)
    repaired = store.verify("a", repair=True)
    assert repaired.ok, repaired.problems
    assert repaired.segment_passages == 100


def test_a_whole_segment_of_another_collection_is_found_out(filled: Path, open_store: OpenStore) -> None:
    mine = next((filled / "segments").iterdir())
    theirs = next((filled.parent / "b" / "segments").iterdir())
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)
    assert len(open_store(maintain=False).open("a").damage) == 1


def test_a_segment_folder_that_no_row_names_is_removed(filled: Path, open_store: OpenStore) -> None:
    stray = filled / "segments" / ("0" * 32)
    shutil.copytree(next((filled / "segments").iterdir()), stray)
    collection = open_store(maintain=False).open("a")
    assert not stray.exists()
    assert collection.damage == ()


@pytest.mark.parametrize("harm", [truncate, empty, delete])
def test_a_damaged_database_is_data_loss_and_says_what_to_do(
    filled: Path, open_store: OpenStore, harm: Callable[[Path, Path], None]
) -> None:
    harm(filled / "collection.db", filled)
    store = open_store(maintain=False)
    with pytest.raises(DataCorrupted, match="restore"):
        collection = store.open("a")
        for i in range(100):
            keys = collection.keys([f"a{i}"])
            read_documents(collection, list(keys.values()), Include(vectors=True))
    assert not store.verify("a").ok
    assert store.open("b").count(None) == 100


def test_a_foreign_sqlite_file_is_no_collection(filled: Path, open_store: OpenStore) -> None:
    (filled / "collection.db").unlink()
    connection = sqlite3.connect(filled / "collection.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(DataCorrupted):
        open_store().open("a")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE vectors SET vector = zeroblob(64) WHERE label = 7",
        "UPDATE documents SET text = 'changed' WHERE key = 7",
        "UPDATE documents SET metadata = '{\"a\":1}' WHERE key = 7",
        "DELETE FROM vectors WHERE label = 7",
        "DELETE FROM passages WHERE label = 7",
        "UPDATE counters SET documents = 99",
        "UPDATE counters SET next_label = 5",
        "DELETE FROM documents WHERE key = 7",
        "UPDATE documents SET id = 'a6x' WHERE key = 7",
        "UPDATE documents SET content_hash = x'00' WHERE key = 7",
        "UPDATE documents SET key = 107 WHERE key = 7",
        "UPDATE passages SET key = 8 WHERE label = 7",
        "UPDATE passages SET tokens = 4 WHERE label = 7",
        "DELETE FROM identities WHERE key = 7",
        "INSERT INTO identities VALUES (1000, 0)",
        "INSERT INTO streams VALUES ('s', 7, 0)",
    ],
)
def test_verify_finds_a_value_that_changed_behind_its_back(filled: Path, open_store: OpenStore, change: str) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute(change)
    connection.close()
    assert not open_store(maintain=False).verify("a").ok


def test_a_changed_value_is_refused_when_it_is_read(filled: Path, open_store: OpenStore) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("UPDATE documents SET text = 'changed' WHERE key = 7")
    connection.execute("UPDATE vectors SET vector = zeroblob(64) WHERE label = 8")
    connection.close()
    collection = open_store(maintain=False).open("a")
    with pytest.raises(DataCorrupted):
        read_documents(collection, [7], Include())
    with pytest.raises(DataCorrupted):
        read_passages(collection, [8], vectors=True)
    assert read_documents(collection, [9], Include())[9].text == "fox 8"


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("UPDATE documents SET content_hash = x'00' WHERE key = 7", lambda it: read_documents(it, [7], Include())),
        ("UPDATE documents SET sequence = 1007 WHERE key = 7", lambda it: it.page(None, 0, 200, Include())),
        ("UPDATE passages SET key = 8 WHERE label = 7", lambda it: read_passages(it, [7])),
        ("UPDATE streams SET position = 8", lambda it: it.stream_position("s")),
    ],
)
def test_a_changed_id_key_or_position_is_refused_when_it_is_read(
    filled: Path, open_store: OpenStore, change: str, read: Callable[[EmbeddedCollection], object]
) -> None:
    store = open_store(maintain=False)
    store.open("a").commit([], StreamPosition(stream="s", position=7)).result(30)
    store.close()
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute(change)
    connection.close()
    collection = open_store(maintain=False).open("a")
    with pytest.raises(DataCorrupted, match="damaged on disk"):
        read(collection)


def test_a_damaged_key_in_the_index_of_ids_never_deletes_another_document(filled: Path, open_store: OpenStore) -> None:
    collection = open_store(maintain=False).open("a")
    # The row that the index leads to is not the one that was stored under the id.
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("UPDATE documents SET sequence = 1007 WHERE key = 7")
    connection.close()
    with pytest.raises(DataCorrupted, match="identity of document 'a6'"):
        collection.commit([Deletion(id="a6")]).result(30)
    assert collection.count(None) == 100


def test_ids_that_differ_from_their_checksum_in_table_and_index_are_refused(
    filled: Path, open_store: OpenStore
) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("UPDATE documents SET id = 'a6x' WHERE key = 7")
    connection.close()
    with pytest.raises(DataCorrupted, match="ids of documents in collection 'a' are damaged"):
        open_store(maintain=False).open("a")


@pytest.mark.parametrize("name", ["name", "uid", "config", "create_time"])
def test_a_changed_setting_is_refused(filled: Path, open_store: OpenStore, name: str) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("UPDATE settings SET value = replace(value, '1', '2') || ' ' WHERE name = ?", (name,))
    connection.close()
    with pytest.raises(DataCorrupted, match="settings of collection 'a' are damaged"):
        open_store(maintain=False).open("a")


def test_the_database_of_another_collection_is_not_served(filled: Path, open_store: OpenStore) -> None:
    shutil.copyfile(filled.parent / "b" / "collection.db", filled / "collection.db")
    with pytest.raises(DataCorrupted, match="has the database of collection 'b'"):
        open_store(maintain=False).open("a")


def test_a_folder_that_was_renamed_is_not_served_under_its_new_name(filled: Path, open_store: OpenStore) -> None:
    filled.rename(filled.with_name("c"))
    with pytest.raises(DataCorrupted, match="has the database of collection 'a'; move it back"):
        open_store(maintain=False).open("c")


def test_a_database_of_that_name_from_another_data_folder_is_not_served(
    filled: Path, open_store: OpenStore, tmp_path: Path
) -> None:
    other = EmbeddedStore(Config(data_dir=tmp_path / "other"), maintain=False)
    other.create("a", collection_config())
    other.close()
    shutil.copyfile(tmp_path / "other/collections/a/collection.db", filled / "collection.db")
    with pytest.raises(DataCorrupted, match="belongs to another collection"):
        open_store(maintain=False).open("a")


def test_a_text_that_is_no_text_any_more_is_damage_and_is_shown_to_nobody(filled: Path, open_store: OpenStore) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("UPDATE documents SET text = CAST(x'736563726574ff' AS TEXT) WHERE key = 7")
    connection.close()
    store = open_store(maintain=False)
    collection = store.open("a")
    with pytest.raises(DataCorrupted) as caught:
        read_documents(collection, [7], Include())
    assert "secret" not in caught.value.message
    assert caught.value.__cause__ is None
    (check,) = [check for check in store.verify("a").checks if check.name == "checksums of documents"]
    assert (check.ok, check.detail) == (False, "damaged: documents [7]")


def test_a_folder_of_segments_that_is_gone_is_made_anew(
    filled: Path, template: tuple[Path, Maker], open_store: OpenStore
) -> None:
    shutil.rmtree(filled / "segments")
    store = open_store()
    collection = store.open("a")
    assert [damage.problem for damage in collection.damage]
    vector = template[1].vectors["a7"][0]
    assert search_dense(collection, vector, 1).keys.tolist() == [collection.keys(["a7"])["a7"]]
    assert store.verify("a", repair=True).ok
    assert collection.info().segment_count == 1


def test_a_database_that_cannot_be_written_is_unavailable() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(Unavailable), translated("a"):
        connection.execute("CREATE TABLE t (x)")
    connection.close()


def test_a_lexical_index_that_disagrees_is_rebuilt_by_repair(filled: Path, open_store: OpenStore) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("INSERT INTO lexical (lexical) VALUES ('delete-all')")
    connection.close()
    store = open_store(maintain=False)
    assert not store.verify("a").ok
    assert store.verify("a", repair=True).ok
    assert len(store.open("a").lexical("fox", 200).keys) == 100


def test_a_newer_data_format_is_refused_and_left_alone(filled: Path, open_store: OpenStore) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(NewerDataFormat, match="99"):
        open_store().open("a")


def test_a_full_disk_fails_the_write_keeps_what_was_and_lets_service_go_on(store: EmbeddedStore, maker: Maker) -> None:
    collection = store.create("c", collection_config())
    collection.commit([maker.upsert("a")]).result(30)

    def limit(pages: int) -> None:
        collection.run(
            Task(
                lambda transaction: transaction.connection.execute(f"PRAGMA max_page_count = {pages}").fetchall(),
                lambda _: None,
            )
        )

    limit(1)
    with pytest.raises(OutOfSpace):
        collection.commit([maker.upsert(f"d{i}", text="word " * 5000) for i in range(50)]).result(30)
    assert collection.count(None) == 1
    limit(1 << 30)
    collection.commit([maker.upsert("b")]).result(30)
    assert sorted(collection.keys(["a", "b", "d0"])) == ["a", "b"]
    assert store.verify("c").ok


def test_a_build_that_fails_is_counted_tried_again_and_harmless(
    open_store: OpenStore, maker: Maker, tmp_path: Path
) -> None:
    store = open_store(builder=("/bin/false",))
    collection = store.create("c", collection_config())
    collection.commit([maker.upsert(f"d{i}") for i in range(100)]).result(30)
    for _ in range(5):
        with pytest.raises(BuildFailed, match="code 1"):
            collection.flush_now()
    assert collection.info().segment_count == 0
    query = maker.vectors["d3"][0]
    assert search_dense(collection, query, 1).keys.tolist() == [collection.keys(["d3"])["d3"]]
    store.close()
    again = open_store(maintain=False).open("c")
    assert again.flush_now() == 1
    assert np.isclose(search_dense(again, query, 1).scores[0], 1, atol=1e-6)


def test_what_is_deleted_while_verify_looks_for_it_is_no_damage(filled: Path, open_store: OpenStore) -> None:
    collection = open_store(maintain=False).open("a")
    (segment,) = collection.snapshot.segments
    graph = segment._graph

    class DeletedFrom:
        """The segment's graph, from which most passages are deleted when it is first asked."""

        mark_deleted = graph.mark_deleted

        def knn_query(self, *question: object, **how: object) -> object:
            segment.remove(segment.passage_ids[:90])
            return graph.knn_query(*question, **how)

    segment._graph = DeletedFrom()
    sample = _sample(segment, 100, NEVER)
    assert len(sample.rows) == 10
    assert sample.found.all()


def test_a_damaged_lexical_index_is_rebuilt_and_needs_no_backup(filled: Path, open_store: OpenStore) -> None:
    connection = sqlite3.connect(filled / "collection.db", isolation_level=None)
    connection.execute("UPDATE lexical_data SET block = x'00' WHERE id > 10")
    connection.close()
    store = open_store(maintain=False)
    with pytest.raises(DataCorrupted, match="shortlist verify --repair") as caught:
        store.open("a").lexical("fox", 10)
    assert "backup" not in caught.value.message
    assert store.verify("a", repair=True).ok
    assert len(store.open("a").lexical("fox", 200).keys) == 100


def flipped_ids(database: Path, id: bytes) -> Iterator[bytes]:
    """The file with one bit flipped in each copy of an id that it has."""
    content = database.read_bytes()
    at = content.find(id)
    while at >= 0:
        yield content[: at + 2] + bytes([content[at + 2] ^ 1]) + content[at + 3 :]
        at = content.find(id, at + 1)


def test_a_flipped_bit_in_any_copy_of_an_id_never_makes_a_second_document(maker: Maker, tmp_path: Path) -> None:
    store = EmbeddedStore(Config(data_dir=tmp_path / "data"), maintain=False)
    store.create("a", collection_config()).commit([maker.upsert(f"id-{i:03}-x") for i in range(100)]).result(30)
    store.close()
    mended = refused = 0
    for number, copy in enumerate(flipped_ids(tmp_path / "data/collections/a/collection.db", b"id-042-x")):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "data", folder)
        (folder / "collections/a/collection.db").write_bytes(copy)
        store = EmbeddedStore(Config(data_dir=folder), maintain=False)
        try:
            collection = store.open("a")
            collection.commit([maker.upsert("id-042-x")]).result(30)
            found = [document.id for document in collection.page(None, 0, 200, Include())[0]]
            assert sorted(found) == [f"id-{i:03}-x" for i in range(100)]
            assert store.verify("a").ok
            mended += 1
        except DataCorrupted:
            assert not store.verify("a").ok
            refused += 1
        finally:
            store.close()
    # The row itself, and the index of ids.
    assert refused >= 1
    assert mended >= 1
