"""A backup is a collection as of one commit, verified, and comes back whole."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from shortlist_server.config import Config
from shortlist_server.domain import BuiltDocument, Chunking, Generation, GenerationConfig, GenerationState, Include
from shortlist_server.errors import CollectionExists, CollectionNotFound, DataCorrupted, InvalidArgument
from shortlist_server.storage.backups.manifest import read_backup
from shortlist_server.storage.backups.verify import verify_backup
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.reports import Progress
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config
from .reads import search_dense


@pytest.fixture
def filled(open_store: OpenStore, maker: Maker) -> EmbeddedStore:
    store = open_store(maintain=False)
    collection = store.create("a", collection_config())
    collection.commit([maker.upsert(f"a{i}", text=f"fox {i}", n=i) for i in range(100)]).result(30)
    assert collection.flush_now() == 1
    collection.commit([maker.upsert(f"a{i}", text=f"hound {i}", n=i) for i in range(90, 110)]).result(30)
    store.create("b", collection_config())
    return store


def same(one: EmbeddedCollection, other: EmbeddedCollection) -> bool:
    include = Include(passages=True)
    return [*one.page(None, 0, 1000, include)[0]] == [*other.page(None, 0, 1000, include)[0]]


def test_a_backup_of_all_comes_back_under_a_new_name(filled: EmbeddedStore, tmp_path: Path, maker: Maker) -> None:
    seen: list[Progress] = []
    made = filled.backup(tmp_path / "backup", progress=seen.append)
    assert [(entry.name, entry.documents) for entry in made.collections] == [("a", 110), ("b", 0)]
    assert seen and seen[-1].done_bytes <= seen[-1].total_bytes
    assert read_backup(tmp_path / "backup") == made
    restored = filled.restore(tmp_path / "backup", "a", "copy", progress=seen.append)
    assert filled.names() == ["a", "b", "copy"]
    assert same(restored, filled.open("a"))
    assert restored.info().segment_count == 1
    assert filled.verify("copy").ok
    key = restored.keys(["a3"])["a3"]
    assert search_dense(restored, maker.vectors["a3"][0], 1).keys.tolist() == [key]
    restored.commit([maker.upsert("new")]).result(30)
    assert "new" not in filled.open("a").keys(["new"])


def test_two_backups_that_begin_at_the_same_time_are_both_made(filled: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    files, others = filled._files, ThreadPoolExecutor(1)
    make_folder = files.make_folder
    second: list[Future[object]] = []

    def begin_another(path: Path) -> None:
        make_folder(path)
        if path.name == ".one.partial":
            # Nothing has this folder's lock yet. The other backup looks for leftovers now, or as soon as it may.
            second.append(others.submit(filled.backup, tmp_path / "backups" / "two", ["a"]))
            time.sleep(0.3)

    files.make_folder = begin_another  # type: ignore[method-assign]
    with others:
        filled.backup(tmp_path / "backups" / "one", ["a"])
        second[0].result(30)
    assert sorted(path.name for path in (tmp_path / "backups").iterdir()) == ["one", "two"]


def test_a_backup_is_not_opened_as_a_data_folder_which_would_change_it(filled: EmbeddedStore, tmp_path: Path) -> None:
    filled.backup(tmp_path / "backup", ["a"])
    with pytest.raises(InvalidArgument, match="restore it there"):
        EmbeddedStore(Config(data_dir=tmp_path / "backup"), maintain=False)


def test_a_backup_made_while_documents_come_in_is_of_one_commit(
    filled: EmbeddedStore, tmp_path: Path, maker: Maker
) -> None:
    collection = filled.open("a")
    changes = [[maker.upsert(f"x{i}"), maker.upsert(f"y{i}")] for i in range(300)]
    writing = threading.Thread(target=lambda: [collection.commit(pair).result(30) for pair in changes])
    writing.start()
    made = filled.backup(tmp_path / "backup", ["a"])
    writing.join()
    restored = filled.restore(tmp_path / "backup", "a", "copy")
    assert restored.sequence == made.collections[0].sequence
    xs = {id[1:] for id in restored.keys([f"x{i}" for i in range(300)])}
    ys = {id[1:] for id in restored.keys([f"y{i}" for i in range(300)])}
    assert xs == ys
    assert filled.verify("copy").ok


def test_a_backup_leaves_out_a_damaged_segment_and_restore_rebuilds_it(filled: EmbeddedStore, tmp_path: Path) -> None:
    file = next((filled.open("a").folder / "segments").glob("*/vectors.f32"))
    file.write_bytes(b"")
    made = filled.backup(tmp_path / "backup", ["a"])
    assert made.collections[0].segments == 0
    restored = filled.restore(tmp_path / "backup", "a", "copy")
    assert same(restored, filled.open("a"))
    assert filled.verify("copy").ok


def test_restore_refuses_what_it_cannot_do(filled: EmbeddedStore, tmp_path: Path) -> None:
    filled.backup(tmp_path / "backup", ["a"])
    with pytest.raises(CollectionExists):
        filled.restore(tmp_path / "backup", "a")
    with pytest.raises(CollectionNotFound):
        filled.restore(tmp_path / "backup", "b", "copy")
    with pytest.raises(InvalidArgument):
        filled.restore(tmp_path / "backup", "a", "../copy")
    with pytest.raises(InvalidArgument):
        filled.restore(tmp_path, "a", "copy")
    with pytest.raises(InvalidArgument):
        filled.backup(tmp_path / "backup")
    database = tmp_path / "backup" / "collections" / "a" / "collection.db"
    database.write_bytes(database.read_bytes()[:20000])
    with pytest.raises(DataCorrupted):
        filled.restore(tmp_path / "backup", "a", "copy")
    assert filled.names() == ["a", "b"]


def test_a_collection_named_twice_is_in_the_backup_once(filled: EmbeddedStore, tmp_path: Path) -> None:
    made = filled.backup(tmp_path / "backup", ["a", "b", "a"])
    assert [entry.name for entry in made.collections] == ["a", "b"]


def test_two_backups_of_one_name_do_not_get_into_each_others_way(filled: EmbeddedStore, tmp_path: Path) -> None:
    refused = []

    def meanwhile(_: object) -> None:
        with pytest.raises(InvalidArgument, match="is being made"):
            filled.backup(tmp_path / "backup")
        refused.append(True)

    filled.backup(tmp_path / "backup", progress=meanwhile)
    assert refused
    assert same(filled.restore(tmp_path / "backup", "a", "copy"), filled.open("a"))
    with pytest.raises(InvalidArgument, match="new folder"):
        filled.backup(tmp_path / "backup")


def test_a_collection_dropped_meanwhile_is_not_in_a_backup_of_all(
    filled: EmbeddedStore, open_store: OpenStore, tmp_path: Path
) -> None:
    filled.close()
    store = open_store(maintain=False)
    with ThreadPoolExecutor(1) as thread:
        # Whoever opens b waits here until it is gone.
        with store._folders.naming("b"):
            backup = thread.submit(store.backup, tmp_path / "backup")
            until = time.monotonic() + 30
            while not any(one.name == "a" for one in store.known()):
                assert time.monotonic() < until
                time.sleep(0.001)
            store.drop("b")
        assert [entry.name for entry in backup.result(30).collections] == ["a"]
    with pytest.raises(CollectionNotFound):
        store.backup(tmp_path / "named", ["b"])


def test_a_backup_without_a_database_is_damaged(filled: EmbeddedStore, tmp_path: Path) -> None:
    filled.backup(tmp_path / "backup")
    (tmp_path / "backup" / "collections" / "a" / "collection.db").unlink()
    with pytest.raises(DataCorrupted, match="use another backup"):
        filled.restore(tmp_path / "backup", "a", "copy")
    assert filled.names() == ["a", "b"]


def test_a_backup_whose_empty_folders_were_lost_comes_back(filled: EmbeddedStore, tmp_path: Path) -> None:
    filled.backup(tmp_path / "backup", ["b"])
    (tmp_path / "backup" / "collections" / "b" / "segments").rmdir()
    assert filled.restore(tmp_path / "backup", "b", "copy").info().document_count == 0


def test_a_backup_of_a_reindex_comes_back_and_its_build_goes_on(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(maintain=False)
    collection = store.create("a", collection_config())
    maker, other = Maker(), Maker(dimension=8)
    changes = [maker.upsert(f"a{i}", text=f"fox {i}") for i in range(100)]
    collection.commit(changes).result(30)
    config = GenerationConfig(
        embedder="other", embedder_revision="r2", dimension=8, chunking=Chunking(max_tokens=64, overlap_tokens=0)
    )
    collection.create_generation(config).result(30)

    def build(collection: EmbeddedCollection, limit: int) -> Generation:
        documents, cursor = collection.documents_to_build(2, limit, 1 << 20)
        built = [BuiltDocument(key=one.key, passages=other.upsert(one.id, passages=2).passages[1]) for one in documents]
        return collection.build(2, built, cursor, tokens=1).result(30)

    build(collection, 60)
    collection.flush_now()
    build(collection, 10)
    made = store.backup(tmp_path / "backup")
    assert (made.collections[0].passages, made.collections[0].segments) == (100, 2)
    assert [report.problems for report in verify_backup(tmp_path / "backup")] == [[]]
    restored = store.restore(tmp_path / "backup", "a", "copy")
    assert store.reindexing() == ["a", "copy"]
    assert store.verify("copy").problems == []
    assert (restored.generation, restored.info().passage_count, restored.damage) == (1, 100, ())
    second = restored.generations()[1]
    assert (second.state, second.config, second.progress.done_documents) == (GenerationState.BUILDING, config, 70)
    assert build(restored, 100).progress.complete
    restored.switch_generation(2).result(30)
    keys = restored.keys(["a3", "a65", "a99"])
    assert [search_dense(restored, other.vectors[id][0], 1).keys.tolist() for id in keys] == [
        [key] for key in keys.values()
    ]
    assert store.verify("copy").problems == []
    assert (collection.generation, collection.generations()[1].progress.done_documents) == (1, 70)
    # Of a collection whose second generation serves, the backup's counts are that one's.
    assert store.backup(tmp_path / "later", ["copy"]).collections[0].passages == 200
    assert verify_backup(tmp_path / "later")[0].ok
    assert store.restore(tmp_path / "later", "copy", "third").generation == 2
