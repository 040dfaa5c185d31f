"""A disk that is really full, as a small file system in memory: typed errors, nothing lost, service goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Document, NewPassage, Upsert
from shortlist_server.errors import OutOfSpace
from shortlist_server.storage.maintenance import BuildFailed
from shortlist_server.storage.store import EmbeddedStore

pytestmark = pytest.mark.crash

DIMENSION = 32


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs rights this user does not have")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def upsert(number: int, text: str = "") -> Upsert:
    vector = np.random.default_rng(number).standard_normal(DIMENSION).astype(np.float32)
    vector /= np.linalg.norm(vector)
    passage = NewPassage(start=0, end=0, vector=vector, tokens=1)
    return Upsert(document=Document(id=str(number), text=text), passages=[passage], content_hash=b"")


def make(folder: Path) -> EmbeddedStore:
    store = EmbeddedStore(Config(data_dir=folder / "data"), maintain=False)
    if "c" not in store.names():
        chunking = Chunking(max_tokens=16, overlap_tokens=0)
        config = CollectionConfig(
            embedder="none", embedder_revision="", dimension=DIMENSION, reranker="none", chunking=chunking
        )
        store.create("c", config)
    return store


def test_a_commit_on_a_full_disk_fails_whole_and_the_next_one_with_room_succeeds(small_disk):
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
        assert collection.dense(upsert(5).passages[0].vector, 1).keys.tolist() == [6]
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


def test_a_build_on_a_full_disk_fails_whole_and_succeeds_when_there_is_room(small_disk):
    ballast = small_disk / "ballast"
    store = make(small_disk)
    try:
        collection = store.open("c")
        collection.commit([upsert(n) for n in range(3000)]).result(30)
        fill(ballast)
        with pytest.raises(BuildFailed, match="space"):
            collection.seal_now()
        assert list((collection.folder / "segments").iterdir()) == []
        with pytest.raises(OutOfSpace):
            store.backup(small_disk / "backup")
        assert not (small_disk / "backup").exists()
        assert collection.dense(upsert(5).passages[0].vector, 1).keys.tolist() == [6]
        ballast.unlink()
        assert collection.seal_now() == 1
        assert store.verify("c").ok
    finally:
        store.close()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 1 << 12):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
