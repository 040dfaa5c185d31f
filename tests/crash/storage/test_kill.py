"""A store is killed at every named point, and at random ones; what it acknowledged is there when it opens again.

``CRASH_ROUNDS`` sets the number of random rounds.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.domain import Include, StoredDocument, Upsert
from shortlist_server.errors import CommitsLost
from shortlist_server.storage.backups.manifest import read_backup
from shortlist_server.storage.store import EmbeddedStore

LOAD = Path(__file__).with_name("load.py")
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "20"))

spec = importlib.util.spec_from_file_location("storage_load", LOAD)
assert spec and spec.loader
load = importlib.util.module_from_spec(spec)
spec.loader.exec_module(load)

pytestmark = pytest.mark.crash

POINTS = [
    ("create:made", 1),
    ("create:renamed", 1),
    ("drop:renamed", 1),
    *((point, nth) for point in ("commit:before", "commit:after", "commit:recorded") for nth in (1, 20)),
    ("publish:before", 1),
    ("publish:after", 1),
    ("publish:after", 3),
    ("publish:removed", 1),
    *((point, nth) for point in ("delete:removed", "delete:committed") for nth in (1, 2)),
    ("backup:collection", 1),
    ("backup:written", 1),
]
BUILD_POINTS = ["build:read", "build:indexed", "build:half_written", "build:written", "build:renamed"]


def start(folder: Path, seed: int, point: str = "-", nth: int = 1) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(LOAD), str(folder), str(seed), point, str(nth)]
    with (folder.parent / "said").open("wb") as said, (folder.parent / "complaint").open("wb") as complaint:
        return subprocess.Popen(command, stdout=said, stderr=complaint)


def finish(process: subprocess.Popen[bytes], folder: Path) -> tuple[int, int]:
    """The last operation that was begun and the last that was acknowledged; -2 for none."""
    process.wait(100)
    assert process.returncode == -signal.SIGKILL, (folder.parent / "complaint").read_text()
    begun = done = -2
    for line in (folder.parent / "said").read_text().splitlines():
        word, number = line.split()
        if word == "begin":
            begun = int(number)
        else:
            done = int(number)
    return begun, done


def check(folder: Path, seed: int, begun: int, done: int) -> None:
    store = EmbeddedStore(load.configuration(folder))
    try:
        if "c" not in store.names():
            assert done < -1, "an acknowledged collection is gone"
            return
        collection = store.open("c")
        ids = [f"d{i}" for i in range(load.IDS)]
        keys = collection.keys(ids)
        found = {d.id: d for d in load.read_documents(collection, list(keys.values()), Include(vectors=True)).values()}
        assert_is_a_state(found, seed, begun, done)
        for document in list(found.values())[:40]:
            vector = document.passages[0].vector
            assert vector is not None
            assert document.key in load.search_dense(collection, vector, 3).keys.tolist()
        lexical = collection.lexical("common", 10 * load.IDS)
        assert set(lexical.keys.tolist()) == set(keys.values())
        report = store.verify("c")
        assert report.ok, report.problems
        for backup in folder.parent.glob("backup-*"):
            assert next(entry.name for entry in read_backup(backup).collections) == "c"
    finally:
        store.close()


def assert_is_a_state(found: dict[str, StoredDocument], seed: int, begun: int, done: int) -> None:
    """The documents are those after some operation from the last acknowledged to the last begun one."""
    model: dict[str, Upsert] = {}
    states = [dict(model)] if done < 0 else []
    for number, kind, argument in load.operations(seed):
        if number > begun:
            break
        load.apply(model, kind, argument)
        if number >= done:
            states.append(dict(model))
    for state in states:
        if state.keys() == found.keys() and all(equal(found[id], change) for id, change in state.items()):
            return
    raise AssertionError(f"after operation {done} was acknowledged, the store holds no state up to {begun}")


def equal(stored: StoredDocument, change: Upsert) -> bool:
    return (
        stored.text == change.document.text
        and dict(stored.metadata) == dict(change.document.metadata)
        and np.array_equal(
            np.array([p.vector for p in stored.passages]), np.array([p.vector for p in change.passages[1]])
        )
    )


@pytest.mark.parametrize(("point", "nth"), POINTS)
def test_nothing_acknowledged_is_lost_when_the_process_is_killed_at(tmp_path: Path, point: str, nth: int) -> None:
    process = start(tmp_path / "data", 1, point, nth)
    begun, done = finish(process, tmp_path / "data")
    check(tmp_path / "data", 1, begun, done)


@pytest.mark.parametrize("point", BUILD_POINTS)
def test_a_build_that_is_killed_leaves_everything_as_it_was(tmp_path: Path, point: str) -> None:
    builder = (sys.executable, "-P", str(LOAD), "build", point)
    store = EmbeddedStore(load.configuration(tmp_path / "data"), builder=builder, maintain=False)
    try:
        collection = store.create("c", load.collection_config())
        changes = [load.upsert(1, 2, f"d{i}") for i in range(100)]
        collection.commit(changes).result(30)
        with pytest.raises(Exception, match="ended with code -9"):
            collection.flush_now()
        assert collection.info().segment_count == 0
        assert list((tmp_path / "data/collections/c/segments").iterdir()) == []
        vector = changes[5].passages[1][0].vector
        assert load.search_dense(collection, vector, 1).keys.tolist() == [collection.keys(["d5"])["d5"]]
    finally:
        store.close()
    again = EmbeddedStore(load.configuration(tmp_path / "data"), maintain=False)
    try:
        assert again.open("c").flush_now() == 1
        assert again.verify("c").ok
    finally:
        again.close()


@pytest.mark.parametrize("round", range(ROUNDS))
def test_nothing_acknowledged_is_lost_when_the_process_is_killed_at_random(tmp_path: Path, round: int) -> None:
    chance = random.Random(round)
    process = start(tmp_path / "data", round)
    try:
        wanted = f"begin {chance.randrange(load.OPERATIONS - 1)}\n"
        while wanted not in (tmp_path / "said").read_text():
            assert process.poll() is None, (tmp_path / "complaint").read_text()
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)  # A random moment.
    finally:
        process.kill()
    begun, done = finish(process, tmp_path / "data")
    check(tmp_path / "data", round, begun, done)


@pytest.mark.parametrize("round", range(max(1, ROUNDS // 4)))
def test_a_log_that_is_lost_after_a_kill_is_never_passed_over(tmp_path: Path, round: int) -> None:
    chance = random.Random(1000 + round)
    data = tmp_path / "data"
    process = start(data, round, "commit:recorded", chance.randrange(1, 40))
    begun, done = finish(process, data)
    log = data / "collections" / "c" / "collection.db-wal"
    content = log.read_bytes()
    if round % 2:
        log.write_bytes(content[: chance.randrange(len(content) // 2)])
    else:
        log.unlink()
    store = EmbeddedStore(load.configuration(data), maintain=False)
    try:
        with pytest.raises(CommitsLost) as caught:
            store.open("c")
        assert int(caught.value.metadata["lost_commits"]) > 0
        (data / "collections" / "c" / "collection.db-shm").unlink(missing_ok=True)
        log.write_bytes(content)
    finally:
        store.close()
    # With the right log back in its place, nothing is lost.
    check(data, round, begun, done)
