"""Collections are made, opened and dropped as wholes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist_server.errors import CollectionExists, CollectionNotFound, DataCorrupted, InvalidArgument, Unavailable
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config
from .reads import search_dense


def test_a_collection_survives_a_restart_with_all_it_holds(open_store: OpenStore, maker: Maker) -> None:
    store = open_store()
    collection = store.create("papers", collection_config(fields=("year",)))
    collection.commit([maker.upsert(f"d{i}", text="fox") for i in range(10)]).result(30)
    config = collection.config
    store.close()
    again = open_store().open("papers")
    assert again.config == config
    assert again.info().document_count == 10
    assert again.sequence == 10
    key = again.keys(["d4"])["d4"]
    assert search_dense(again, maker.vectors["d4"][0], 1).keys.tolist() == [key]
    again.commit([maker.upsert("new")]).result(30)
    assert again.keys(["new"])["new"] == 11


def test_a_name_is_made_once_and_dropped_once(store: EmbeddedStore) -> None:
    store.create("a", collection_config())
    with pytest.raises(CollectionExists):
        store.create("a", collection_config())
    assert store.names() == ["a"]
    assert store.open("a") is store.open("a")
    store.drop("a")
    assert store.names() == []
    for call in (store.drop, store.open):
        with pytest.raises(CollectionNotFound):
            call("a")
    store.create("a", collection_config())


def test_nothing_is_kept_of_names_that_are_made_up(store: EmbeddedStore) -> None:
    for number in range(10):
        for call in (store.open, store.drop):
            with pytest.raises(CollectionNotFound):
                call(f"n{number}")
    assert dict(store._folders._name_locks) == {}


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "..", ".a", "a" * 65, "é", "a\n"])
def test_a_name_that_could_leave_the_folder_is_refused(store: EmbeddedStore, name: str) -> None:
    with pytest.raises(InvalidArgument):
        store.create(name, collection_config())
    with pytest.raises(CollectionNotFound):
        store.open(name)


def test_one_process_has_the_folder_at_a_time(store: EmbeddedStore, open_store: OpenStore) -> None:
    with pytest.raises(Unavailable):
        open_store()
    store.close()
    open_store()


def test_what_a_crash_left_half_made_or_half_dropped_is_removed(
    store: EmbeddedStore, open_store: OpenStore, tmp_path: Path
) -> None:
    store.close()
    folder = tmp_path / "data" / "collections"
    (folder / ".creating-1" / "segments").mkdir(parents=True)
    (folder / ".dropped-1").mkdir()
    assert open_store().names() == []
    assert list(folder.iterdir()) == []


def test_a_collection_whose_database_is_gone_is_damage_not_an_empty_collection(
    store: EmbeddedStore, open_store: OpenStore, tmp_path: Path
) -> None:
    store.create("a", collection_config())
    store.close()
    (tmp_path / "data" / "collections" / "a" / "collection.db").unlink()
    again = open_store()
    with pytest.raises(DataCorrupted):
        again.open("a")
    again.create("b", collection_config())


def test_what_is_no_folder_is_no_collection(store: EmbeddedStore, tmp_path: Path) -> None:
    store.create("a", collection_config())
    (tmp_path / "data" / "collections" / "notes").write_text("")
    assert store.names() == ["a"]


def test_a_closed_store_refuses(store: EmbeddedStore) -> None:
    store.close()
    store.close()
    with pytest.raises(Unavailable):
        store.create("a", collection_config())
    with pytest.raises(Unavailable):
        store.open("a")
