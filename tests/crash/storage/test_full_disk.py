"""A disk that is really full, as a small file system in memory: typed errors, nothing lost, service goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Deletion, Document, NewPassage, Range, Upsert
from shortlist_server.errors import OutOfSpace
from shortlist_server.rpc.document_service import delete_by_id
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.compactor import BuildFailed
from shortlist_server.storage.rows import reserve, schema
from shortlist_server.storage.store import EmbeddedStore

pytestmark = pytest.mark.crash

DIMENSION = 32


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '12m')}", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs rights this user does not have")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def upsert(number: int, text: str = "") -> Upsert:
    vector = np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32)
    vector /= np.linalg.norm(vector)
    passage = NewPassage(start=0, end=0, vector=vector, tokens=1)
    return Upsert(
        document=Document(id=str(number), text=text, metadata={"number": number}),
        passages={1: [passage]},
        content_hash=b"",
    )


def nearest(collection: EmbeddedCollection, number: int) -> list[int]:
    """Key of the document nearest to the vector of document ``number``."""
    with collection.read_generation() as serving:
        keys: list[int] = serving.dense(upsert(number).passages[1][0].vector, 1).keys.tolist()
        return keys


def make(folder: Path) -> EmbeddedStore:
    store = EmbeddedStore(Config(data_dir=folder / "data"), maintain=False)
    if "c" not in store.names():
        chunking = Chunking(max_tokens=16, overlap_tokens=0)
        config = CollectionConfig(
            embedder="none", embedder_revision="", dimension=DIMENSION, reranker="none", chunking=chunking
        )
        store.create("c", config)
    return store


def test_a_commit_on_a_full_disk_fails_whole_and_the_next_one_with_room_succeeds(small_disk: Path) -> None:
    store = make(small_disk)
    try:
        collection = store.open("c")
        acknowledged = 0
        with pytest.raises(OutOfSpace):
            for number in range(0, 10_000, 10):
                changes = [upsert(n, f"word{n} " * 300) for n in range(number, number + 10)]
                collection.commit(changes).result(30)
                acknowledged = number + 10
        assert acknowledged > 100
        assert collection.count(None) == acknowledged
        assert nearest(collection, 5) == [6]
    finally:
        store.close()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    store = make(small_disk)
    try:
        collection = store.open("c")
        assert sorted(map(int, collection.keys([str(n) for n in range(acknowledged + 20)]))) == [*range(acknowledged)]
        collection.commit([upsert(100_000)]).result(30)
        assert store.verify("c").ok
    finally:
        store.close()


def test_a_build_on_a_full_disk_fails_whole_and_succeeds_when_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    store = make(small_disk)
    try:
        collection = store.open("c")
        collection.commit([upsert(n) for n in range(3000)]).result(30)
        fill(ballast)
        with pytest.raises(BuildFailed, match="space"):
            collection.flush_now()
        assert list((collection.folder / "segments").iterdir()) == []
        with pytest.raises(OutOfSpace):
            store.backup(small_disk / "backup")
        assert not (small_disk / "backup").exists()
        assert nearest(collection, 5) == [6]
        ballast.unlink()
        assert collection.flush_now() == 1
        assert store.verify("c").ok
    finally:
        store.close()


@pytest.mark.parametrize("small_disk", ["256m"], indirect=True)
@pytest.mark.parametrize("way", ["by filter", "by id"])
def test_documents_can_be_deleted_on_a_full_disk_and_writes_go_on_after(small_disk: Path, way: str) -> None:
    store = make(small_disk)
    try:
        collection = store.open("c")
        with (small_disk / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, 140 << 20)
        acknowledged = fill_with_documents(collection, 0, 10, words=4000)
        fill(small_disk / "rest")
        acknowledged = fill_with_documents(collection, acknowledged, 1, words=4000)
        gone = acknowledged * 3 // 4
        if way == "by filter":
            deleted = collection.delete_matching(Range(("number",), upper=gone - 0.5)).result(60)
        else:
            commits = [
                collection.commit([Deletion(id=str(n)) for n in range(at, min(at + 50, gone))]).result(30)
                for at in range(0, gone, 50)
            ]
            deleted = sum(sum(commit.existed) for commit in commits)
        assert deleted == gone
        assert collection.count(None) == acknowledged - gone
        collection.commit([upsert(n) for n in range(10)]).result(30)
        assert store.verify("c").ok
        assert (small_disk / "data" / "RESERVE").stat().st_size > 0
    finally:
        store.close()


@pytest.mark.parametrize("small_disk", ["64m"], indirect=True)
def test_ids_that_one_transaction_has_no_room_to_delete_are_deleted_in_several(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thirty-second of both: a log of 1 MiB, and twice as much in reserve.
    monkeypatch.setattr(schema, "_WAL_PAGES", schema._WAL_PAGES // 32)
    monkeypatch.setattr(reserve, "MAX_BYTES", reserve.MAX_BYTES // 32)
    store = make(small_disk)
    try:
        collection = store.open("c")
        acknowledged = fill_with_documents(collection, 0, 50)
        fill(small_disk / "rest")
        acknowledged = fill_with_documents(collection, acknowledged, 1)
        ids = [str(n) for n in range(acknowledged * 9 // 10)]
        with pytest.raises(OutOfSpace):
            collection.commit([Deletion(id=id) for id in ids]).result(60)
        assert collection.count(None) == acknowledged
        assert asyncio.run(delete_by_id(collection, [Deletion(id=id) for id in [*ids, "none"]])) == len(ids)
        assert collection.count(None) == acknowledged - len(ids)
    finally:
        store.close()


def test_while_the_reserve_is_spent_only_deletions_are_taken(small_disk: Path) -> None:
    store = make(small_disk)
    try:
        collection = store.open("c")
        collection.commit([upsert(n, "word " * 300) for n in range(50)]).result(30)
        fill(small_disk / "ballast")
        held = fill_with_documents(collection, 50, 1)
        store._parameters.reserve.release()
        fill(small_disk / "more")
        with pytest.raises(OutOfSpace, match="for deletions"):
            collection.commit([upsert(20_000)]).result(30)
        assert collection.count(None) == held
        (small_disk / "more").unlink()
        (small_disk / "ballast").unlink()
        collection.commit([upsert(20_000)]).result(30)
        assert (small_disk / "data" / "RESERVE").exists()
    finally:
        store.close()


def fill_with_documents(collection: EmbeddedCollection, number: int, at_once: int, words: int = 300) -> int:
    """Adds documents from this number on until there is no room; returns the number of the first that has none."""
    while True:
        try:
            changes = [upsert(n, f"word{n} " * words) for n in range(number, number + at_once)]
            collection.commit(changes).result(30)
        except OutOfSpace:
            return number
        number += at_once


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 1 << 12):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
