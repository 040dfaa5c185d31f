"""The order in which files are written, synced and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shortlist_server.storage.compaction.builder import BuildSpec, build
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.store import EmbeddedStore

from .conftest import DIMENSION, Maker, OpenStore, collection_config


def noted(operation: str) -> Callable[..., Any]:
    def method(self: RecordingFiles, *paths: Path) -> object:
        named = paths[1] if operation in ("rename", "copy") else paths[0]
        self.log.append((operation, named.name))
        return getattr(Files, operation)(self, *paths)

    return method


class RecordingFiles(Files):
    """Does what ``Files`` does and notes it: (operation, name)."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    make_folder, write, copy, sync, sync_folder, rename, remove_tree = map(
        noted, ("make_folder", "write", "copy", "sync", "sync_folder", "rename", "remove_tree")
    )


def test_a_segment_is_named_only_when_all_of_it_is_synced(store: EmbeddedStore, maker: Maker) -> None:
    collection = store.create("c", collection_config())
    collection.commit([maker.upsert(f"d{i}") for i in range(20)]).result(30)
    files = RecordingFiles()
    row = build(
        BuildSpec(
            database=str(collection.folder / "collection.db"),
            folder=str(collection.folder / "segments"),
            collection=collection.uid,
            uid="u",
            generation=1,
            dimension=DIMENSION,
            low=0,
            high=20,
            seed=None,
            threads=1,
        ),
        files,
    )
    assert row is not None and row.passages == 20
    names = ["graph.hnsw", "vectors.f32", "labels.i64", "keys.i64", "manifest.json"]
    at = {entry: place for place, entry in enumerate(files.log)}
    rename = at["rename", "u"]
    for name in names:
        assert at["sync", name] < at["sync_folder", ".building-u"] < rename
        if name != "graph.hnsw":
            assert at["write", name] < at["sync", name]
    assert files.log[-1] == ("sync_folder", "segments")
    assert at["sync_folder", "segments"] > rename
    written = [place for place, (operation, _) in enumerate(files.log) if operation == "write"]
    assert max(written) < min(place for place, (operation, _) in enumerate(files.log) if operation == "sync")
    assert np.fromfile(collection.folder / "segments" / "u" / "labels.i64", np.int64).tolist() == list(range(1, 21))


def test_a_collection_is_named_only_when_all_of_it_is_synced(open_store: OpenStore) -> None:
    files = RecordingFiles()
    open_store(files=files).create("c", collection_config())
    operations = [entry for entry in files.log if entry[0] != "make_folder"]
    assert operations[:3] == [("write", "last-commit"), ("sync", "last-commit"), ("sync", "collection.db")]
    assert operations[3][0] == "sync_folder"
    assert operations[4:] == [("rename", "c"), ("sync_folder", "collections")]


def test_a_dropped_collection_is_unnamed_durably_before_it_is_removed(open_store: OpenStore) -> None:
    files = RecordingFiles()
    store = open_store(files=files)
    store.create("c", collection_config())
    files.log.clear()
    store.drop("c")
    assert [operation for operation, _ in files.log] == ["rename", "sync_folder", "remove_tree"]


def test_a_backup_is_named_only_when_all_of_it_is_synced(open_store: OpenStore, maker: Maker, tmp_path: Path) -> None:
    files = RecordingFiles()
    store = open_store(files=files, maintain=False)
    collection = store.create("c", collection_config())
    collection.commit([maker.upsert(f"d{i}") for i in range(20)]).result(30)
    collection.flush_now()
    files.log.clear()
    store.backup(tmp_path / "backup")
    rename = files.log.index(("rename", "backup"))
    synced = {name for operation, name in files.log[:rename] if operation == "sync"}
    copied = {name for operation, name in files.log if operation in ("copy", "write")}
    assert copied | {"collection.db"} <= synced
    assert files.log[rename - 1] == ("sync_folder", ".backup.partial")
    assert files.log[rename + 1] == ("sync_folder", tmp_path.name)
