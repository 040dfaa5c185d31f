"""A write-ahead log that is lost, cut short or of another time is found out by the record of the last commit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist_server.domain import StreamPosition
from shortlist_server.errors import CommitsLost, DataCorrupted, Unavailable
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.disk.commit_record import Mark, create_record, read_record
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.layout import COMMIT_FILE
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config, opened

COMMITS = 12
WRITE_AND_DIE = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[4])!r})
from shortlist_server.config import Config
from shortlist_server.storage.store import EmbeddedStore
from tests.server.unit.storage.conftest import Maker, collection_config
store = EmbeddedStore(Config(data_dir=Path(sys.argv[1])), maintain=False)
collection = store.create("a", collection_config()) if "a" not in store.names() else store.open("a")
maker, first = Maker(), int(sys.argv[2])
for number in range(first, first + {COMMITS}):
    collection.commit([maker.upsert(f"d{{number}}")]).result(30)
os.kill(os.getpid(), signal.SIGKILL)
"""


def write_and_die(data: Path, first: int = 0) -> None:
    process = subprocess.run(
        [sys.executable, "-c", WRITE_AND_DIE, str(data), str(first)], capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose process was killed after 12 acknowledged commits, all of them in the log."""
    folder = tmp_path_factory.mktemp("template") / "data"
    write_and_die(folder)
    return folder


@pytest.fixture
def killed(template: Path, tmp_path: Path) -> Path:
    """The folder of the collection in a copy of the template."""
    shutil.copytree(template, tmp_path / "data")
    return tmp_path / "data" / "collections" / "a"


def delete(log: Path) -> None:
    log.unlink()


def truncate(log: Path) -> None:
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


def empty(log: Path) -> None:
    log.write_bytes(b"")


def flip(log: Path) -> None:
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 4
    log.write_bytes(content)


def ids(collection: EmbeddedCollection) -> set[str]:
    return set(collection.keys([f"d{i}" for i in range(5 * COMMITS)]))


def test_all_that_was_acknowledged_before_a_kill_is_there(killed: Path, open_store: OpenStore) -> None:
    collection = open_store(maintain=False).open("a")
    assert ids(collection) == {f"d{i}" for i in range(COMMITS)}
    assert collection.sequence == COMMITS


@pytest.mark.parametrize("harm", [delete, truncate, empty, flip])
def test_a_log_that_lost_commits_is_refused_with_their_number_and_left_as_it_is(
    killed: Path, open_store: OpenStore, harm: Callable[[Path], None]
) -> None:
    log = killed / "collection.db-wal"
    harm(log)
    left = log.read_bytes() if log.exists() else b""
    database = (killed / "collection.db").read_bytes()
    store = open_store(maintain=False)
    with pytest.raises(CommitsLost, match=r"acknowledged commits are missing.*--accept-loss") as caught:
        store.open("a")
    lost = int(caught.value.metadata["lost_commits"])
    assert lost == COMMITS if harm in (delete, empty) else 0 < lost < COMMITS
    assert not store.verify("a").ok
    assert not store.verify("a", repair=True).ok
    assert (log.read_bytes() if log.exists() else b"") == left
    assert (killed / "collection.db").read_bytes() == database


@pytest.mark.parametrize("harm", [delete, truncate, flip])
def test_an_accepted_loss_goes_on_with_numbers_that_were_never_given_out(
    killed: Path, open_store: OpenStore, maker: Maker, harm: Callable[[Path], None]
) -> None:
    harm(killed / "collection.db-wal")
    store = open_store(maintain=False)
    report = store.verify("a", repair=True, accept_loss=True)
    assert report.ok, report.problems
    assert "acknowledged commits are missing" in report.repairs[0]
    collection = store.open("a")
    assert len(ids(collection)) < COMMITS
    assert collection.commit([maker.upsert("new")]).result(30).last_sequence > COMMITS
    assert collection.keys(["new"])["new"] > COMMITS
    store.close()
    again = open_store(maintain=False).open("a")
    assert "new" in again.keys(["new"])


def test_a_log_of_an_earlier_time_is_refused(killed: Path, open_store: OpenStore) -> None:
    earlier = (killed / "collection.db-wal").read_bytes()
    write_and_die(killed.parents[1], COMMITS)
    (killed / "collection.db-wal").write_bytes(earlier)
    (killed / "collection.db-shm").unlink(missing_ok=True)
    with pytest.raises(DataCorrupted):
        open_store(maintain=False).open("a")


def test_a_log_of_another_collection_is_refused(killed: Path, open_store: OpenStore, tmp_path: Path) -> None:
    # As many commits as the record has, so that only the identity tells them apart.
    write_and_die(tmp_path / "other")
    shutil.copyfile(tmp_path / "other/collections/a/collection.db-wal", killed / "collection.db-wal")
    with pytest.raises(DataCorrupted, match="belongs to another collection"):
        open_store(maintain=False).open("a")


def test_a_database_of_an_earlier_time_is_refused(
    killed: Path, open_store: OpenStore, maker: Maker, tmp_path: Path
) -> None:
    store = open_store(maintain=False)
    store.open("a")
    store.close()
    shutil.copyfile(killed / "collection.db", tmp_path / "earlier")
    store = open_store(maintain=False)
    store.open("a").commit([maker.upsert("new")]).result(30)
    store.close()
    shutil.copyfile(tmp_path / "earlier", killed / "collection.db")
    with pytest.raises(CommitsLost, match="1 acknowledged commits are missing"):
        open_store(maintain=False).open("a")


def test_a_lost_position_of_a_stream_counts_as_a_commit(
    store: EmbeddedStore, open_store: OpenStore, tmp_path: Path
) -> None:
    collection = store.create("a", collection_config())
    store.close()
    database = tmp_path / "data/collections/a/collection.db"
    earlier = database.read_bytes()
    store = open_store(maintain=False)
    collection = store.open("a")
    collection.commit([], StreamPosition(stream="s", position=7)).result(30)
    store.close()
    database.write_bytes(earlier)
    with pytest.raises(CommitsLost, match="1 acknowledged commits are missing, with 0 changes"):
        open_store(maintain=False).open("a")


def missing(record: Path) -> None:
    record.unlink()


def zeroed(record: Path) -> None:
    record.write_bytes(bytes(8192))


@pytest.mark.parametrize("harm", [missing, empty, zeroed])
def test_without_its_record_a_collection_is_refused_until_that_is_accepted(
    killed: Path, open_store: OpenStore, harm: Callable[[Path], None]
) -> None:
    harm(killed / COMMIT_FILE)
    store = open_store(maintain=False)
    with pytest.raises(CommitsLost, match="record of its last commit"):
        store.open("a")
    assert store.verify("a", repair=True, accept_loss=True).ok
    assert len(ids(store.open("a"))) == COMMITS


def test_a_torn_write_of_the_record_leaves_the_mark_of_the_commit_before(killed: Path, open_store: OpenStore) -> None:
    record = killed / COMMIT_FILE
    content = bytearray(record.read_bytes())
    place = COMMITS % 2 * 4096
    content[place + 30 : place + 60] = bytes(30)
    record.write_bytes(content)
    found = read_record(record)
    assert found is not None and found.commits == COMMITS - 1
    assert len(ids(open_store(maintain=False).open("a"))) == COMMITS
    again = read_record(record)
    assert again is not None and again.commits == COMMITS


def test_each_bit_of_a_mark_is_under_its_checksum(tmp_path: Path) -> None:
    mark = Mark(uid="0123456789abcdef" * 2, commits=7, sequence=8, next_key=9, next_passage_id=10)
    create_record(tmp_path / "record", mark, Files())
    content = (tmp_path / "record").read_bytes()
    assert read_record(tmp_path / "record") == mark
    start = 4096
    for bit in range(8 * 60):
        damaged = bytearray(content)
        damaged[start + bit // 8] ^= 1 << bit % 8
        (tmp_path / "record").write_bytes(damaged)
        assert read_record(tmp_path / "record") is None


def test_a_commit_that_cannot_be_recorded_is_not_acknowledged(
    store: EmbeddedStore, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = store.create("a", collection_config())
    descriptor = opened(collection)._record._descriptor
    # A descriptor that refuses to be written, as a disk that fails does.
    opened(collection)._record._descriptor = 1_000_000
    with pytest.raises(Unavailable):
        collection.commit([maker.upsert("x")]).result(30)
    opened(collection)._record._descriptor = descriptor
    collection.commit([maker.upsert("y")]).result(30)
    assert sorted(collection.keys(["x", "y"])) == ["x", "y"]
