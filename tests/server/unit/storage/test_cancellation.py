"""What is cancelled stops within a moment and leaves nothing behind, wherever it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist_server.domain import NEVER, Cancellation
from shortlist_server.errors import OperationCancelled
from shortlist_server.storage.disk import files as files_module
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.disk.interruption import interruptible
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config


class Cancelling(Files):
    """Cancels at the n-th operation on the disk."""

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        self.at = -1
        self.count = 0

    def _passed(self) -> None:
        self.count += 1
        if self.count == self.at:
            self.cancellation.cancel()

    def make_folder(self, path: Path) -> None:
        self._passed()
        super().make_folder(path)

    def copy(self, source: Path, target: Path, cancellation: Cancellation = NEVER) -> None:
        self._passed()
        super().copy(source, target, cancellation)

    def sync(self, path: Path) -> None:
        self._passed()
        super().sync(path)

    def sync_folder(self, path: Path) -> None:
        self._passed()
        super().sync_folder(path)


@pytest.fixture
def files() -> Cancelling:
    return Cancelling()


@pytest.fixture
def store(open_store: OpenStore, maker: Maker, files: Cancelling) -> EmbeddedStore:
    """Two collections; "a" has a segment and a growing segment."""
    store = open_store(maintain=False, files=files)
    collection = store.create("a", collection_config())
    collection.commit([maker.upsert(f"a{i}", text=f"fox {i}") for i in range(100)]).result(30)
    assert collection.flush_now() == 1
    collection.commit([maker.upsert(f"b{i}", text=f"hound {i}") for i in range(10)]).result(30)
    store.create("b", collection_config())
    return store


def test_a_backup_cancelled_at_any_point_leaves_nothing(
    store: EmbeddedStore, files: Cancelling, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    cancelled = 0
    for at in range(1, 100):
        files.cancellation, files.at, files.count = Cancellation(), at, 0
        try:
            store.backup(folder / "one", cancellation=files.cancellation)
        except OperationCancelled:
            assert list(folder.iterdir()) == []
            cancelled += 1
        else:
            # The name came first: the backup is complete, and stays.
            assert [path.name for path in folder.iterdir()] == ["one"]
            break
    assert cancelled > 10
    assert store.restore(folder / "one", "a", "again").info().document_count == 110


def test_a_restore_cancelled_at_any_point_leaves_nothing(
    store: EmbeddedStore, files: Cancelling, tmp_path: Path
) -> None:
    store.backup(tmp_path / "one")
    collections = tmp_path / "data" / "collections"
    cancelled = 0
    for at in range(1, 100):
        files.cancellation, files.at, files.count = Cancellation(), at, 0
        try:
            store.restore(tmp_path / "one", "a", "again", cancellation=files.cancellation)
        except OperationCancelled:
            assert sorted(path.name for path in collections.iterdir()) == ["a", "b"]
            cancelled += 1
        else:
            break
    assert cancelled > 5
    assert store.verify("again").ok


@pytest.mark.parametrize("step", ["database", "lexical index", "segments", "invariant", "reachability"])
def test_a_verification_stops_before_its_next_step(store: EmbeddedStore, step: str) -> None:
    cancellation, steps = Cancellation(), list[str]()

    def progress(name: str) -> None:
        steps.append(name)
        if name == step:
            cancellation.cancel()

    with pytest.raises(OperationCancelled):
        store.verify("a", progress=progress, cancellation=cancellation)
    assert steps[-1] == step
    assert store.verify("a").ok


def test_a_repair_that_is_cancelled_leaves_a_consistent_store(store: EmbeddedStore) -> None:
    (segment,) = (store.open("a").folder / "segments").iterdir()
    shutil.rmtree(segment)
    cancellation = Cancellation()

    def progress(name: str) -> None:
        if name == "repair":
            cancellation.cancel()

    with pytest.raises(OperationCancelled):
        store.verify("a", repair=True, progress=progress, cancellation=cancellation)
    # The repair that had begun is whole.
    assert store.verify("a").ok
    assert store.open("a").info().document_count == 110


def stops_within_a_second(work: Callable[[Cancellation], object], after_seconds: float = 0.2) -> None:
    """Starts work that takes long, cancels it in the middle, and measures how long it goes on."""
    cancellation, ended = Cancellation(), list[float]()

    def run() -> None:
        with pytest.raises(OperationCancelled):
            work(cancellation)
        ended.append(time.monotonic())

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(after_seconds)
    assert thread.is_alive(), "the work was over too soon to be cancelled"
    cancelled = time.monotonic()
    cancellation.cancel()
    thread.join(30)
    assert ended and ended[0] - cancelled < 1


def test_the_copy_of_a_large_file_stops_within_a_second(tmp_path: Path) -> None:
    source, target = tmp_path / "endless", tmp_path / "target"
    os.mkfifo(source)

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), source.open("wb", buffering=0) as pipe:
            while True:
                pipe.write(b"x" * 4096)
                time.sleep(0.01)

    feeding = threading.Thread(target=feed)
    feeding.start()
    stops_within_a_second(lambda cancellation: Files().copy(source, target, cancellation))
    feeding.join(10)
    assert target.stat().st_size > 0


def test_a_copy_is_whole_and_synced_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_COPIED_AT_ONCE", 1000)
    monkeypatch.setattr(files_module, "_SYNCED_AT_ONCE", 4000)
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", synced.append)
    content = bytes(range(256)) * 40
    (tmp_path / "source").write_bytes(content)
    Files().copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content
    assert len(synced) == 2
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


def test_a_long_statement_stops_within_a_second() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"

    def run(cancellation: Cancellation) -> None:
        with interruptible(connection, cancellation):
            connection.execute(endless).fetchone()

    stops_within_a_second(run)
    # The connection can be used again.
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()


def test_a_cancellation_between_two_statements_stops_the_next() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    cancellation = Cancellation()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    with pytest.raises(OperationCancelled), interruptible(connection, cancellation):
        cancellation.cancel()
        connection.execute(endless).fetchone()
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()


def test_the_check_of_a_database_stops_when_it_is_interrupted(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "large.db", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("CREATE TABLE t (x PRIMARY KEY)")
    connection.execute(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000)"
        " INSERT INTO t SELECT hex(randomblob(32)) FROM n"
    )
    begin = time.monotonic()
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    whole = time.monotonic() - begin

    def check(cancellation: Cancellation) -> None:
        # A check that came to its end would raise nothing.
        with interruptible(connection, cancellation):
            connection.execute("PRAGMA integrity_check").fetchone()

    stops_within_a_second(check, after_seconds=whole / 10)
    connection.close()


def test_an_error_that_has_nothing_to_do_with_a_cancellation_is_itself() -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError, match="no such table"), interruptible(connection, Cancellation()):
        connection.execute("SELECT 1 FROM absent")
    connection.close()


def test_a_callback_is_called_once_and_only_during_its_block() -> None:
    called: list[str] = []
    early, late = Cancellation(), Cancellation()
    with early.calling(lambda: called.append("early")):
        early.cancel()
        early.cancel()
    with late.calling(lambda: called.append("late")):
        pass
    late.cancel()
    assert called == ["early"]
    with pytest.raises(OperationCancelled), late.calling(lambda: called.append("never")):
        pytest.fail("the block is not entered")
