"""A backup whose files are not those that were written is found by verification and refused by restore."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist_server.config import Config
from shortlist_server.errors import CollectionNotFound, DataCorrupted, InvalidArgument
from shortlist_server.storage.backups.manifest import read_backup
from shortlist_server.storage.backups.verify import verify_backup
from shortlist_server.storage.disk.locking import try_lock
from shortlist_server.storage.reports import Progress
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config

GOLDEN = Path(__file__).with_name("golden_backups")
DATABASE = "collections/a/collection.db"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``early`` and ``late``: backups of collections a and b, a having grown between them."""
    folder, maker = tmp_path_factory.mktemp("made"), Maker()
    store = EmbeddedStore(Config(data_dir=folder / "data"), maintain=False)
    for name in "ab":
        store.create(name, collection_config()).commit([maker.upsert(f"{name}{i}") for i in range(70)]).result(30)
    assert store.open("a").flush_now() == 1
    store.backup(folder / "early")
    store.open("a").commit([maker.upsert(f"late{i}") for i in range(9)]).result(30)
    store.backup(folder / "late")
    store.close()
    return folder


@pytest.fixture
def backup(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "late", tmp_path / "backup")
    return tmp_path / "backup"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_good_backup_verifies_and_not_a_byte_of_it_changes(backup: Path) -> None:
    before = contents(backup)
    reports = verify_backup(backup)
    assert [(report.name, report.ok, report.documents) for report in reports] == [("a", True, 79), ("b", True, 70)]
    assert contents(backup) == before


def missing(backup: Path, made: Path) -> None:
    (backup / DATABASE).unlink()


def older(backup: Path, made: Path) -> None:
    shutil.copyfile(made / "early" / DATABASE, backup / DATABASE)


def foreign(backup: Path, made: Path) -> None:
    shutil.copyfile(backup / "collections/b/collection.db", backup / DATABASE)


def flipped(backup: Path, made: Path) -> None:
    content = bytearray((backup / DATABASE).read_bytes())
    content[-3] ^= 4
    (backup / DATABASE).write_bytes(content)


def short(backup: Path, made: Path) -> None:
    (backup / DATABASE).write_bytes((backup / DATABASE).read_bytes()[:20000])


HARMS = [missing, older, foreign, flipped, short]


@pytest.mark.parametrize("harm", HARMS)
def test_a_database_that_is_not_the_one_backed_up_is_found_and_not_restored(
    backup: Path, made: Path, store: EmbeddedStore, harm: Callable[[Path, Path], None]
) -> None:
    harm(backup, made)
    a, b = verify_backup(backup)
    assert (a.ok, b.ok) == (False, True)
    assert any("collection.db" in problem for problem in a.problems)
    with pytest.raises(DataCorrupted, match="use another backup") as caught:
        store.restore(backup, "a")
    assert "restore" not in caught.value.message
    assert store.names() == []
    assert store.restore(backup, "b").count(None) == 70


@pytest.mark.parametrize("harm", HARMS)
def test_a_backup_without_checksums_is_still_held_to_its_counts(
    backup: Path, made: Path, store: EmbeddedStore, harm: Callable[[Path, Path], None]
) -> None:
    values = json.loads((backup / "backup.json").read_bytes())
    del values["checksum"]
    for entry in values["collections"]:
        del entry["uid"], entry["files"]
    (backup / "backup.json").write_text(json.dumps({**values, "format": 1}))
    assert [report.ok for report in verify_backup(backup)] == [True, True]
    harm(backup, made)
    if harm is flipped:
        return
    assert [report.ok for report in verify_backup(backup)] == [False, True]
    with pytest.raises(DataCorrupted):
        store.restore(backup, "a")


def test_a_backup_of_format_1_restores_with_a_note(store: EmbeddedStore) -> None:
    seen: list[Progress] = []
    collection = store.restore(GOLDEN / "format-1", "golden", "copy", progress=seen.append)
    assert "without checksums" in seen[0].note
    assert collection.count(None) == 50
    assert collection.info().segment_count == 1
    assert store.verify("copy").ok
    (report,) = verify_backup(GOLDEN / "format-1")
    assert report.ok, report.problems
    assert "without checksums" in report.notes[0]


def test_a_damaged_segment_of_a_backup_is_named_and_left_out_when_it_is_restored(
    backup: Path, store: EmbeddedStore
) -> None:
    file = next((backup / "collections/a/segments").glob("*/graph.hnsw"))
    file.write_bytes(b"")
    report = verify_backup(backup, "a")[0]
    assert not report.ok
    assert "graph.hnsw" in str(report.problems)
    collection = store.restore(backup, "a")
    assert (collection.count(None), collection.info().segment_count) == (79, 0)
    assert store.verify("a").ok


def test_a_file_that_does_not_belong_to_a_backup_is_named(backup: Path) -> None:
    (backup / "collections/a/collection.db-wal").write_bytes(b"x")
    shutil.copytree(backup / "collections/b", backup / "collections/c")
    a, b, c = verify_backup(backup)
    assert "collection.db-wal is not in backup.json" in a.problems[0]
    assert b.ok
    assert "not part of this backup" in c.problems[0]


def test_a_flipped_bit_in_the_list_itself_is_found(backup: Path, store: EmbeddedStore) -> None:
    content = (backup / "backup.json").read_bytes()
    (backup / "backup.json").write_bytes(content.replace(b'"documents": 79', b'"documents": 78'))
    with pytest.raises(DataCorrupted, match=r"backup\.json is damaged"):
        verify_backup(backup)
    with pytest.raises(DataCorrupted, match="use another backup"):
        store.restore(backup, "a")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"7",
        b"{}",
        b"[" * 100_000,
        b'{"format": "1"}',
        b'{"format": 1, "create_time_seconds": "x", "collections": []}',
        b'{"format": 1, "create_time_seconds": 1e300, "collections": []}',
        b'{"format": 1, "create_time_seconds": 1, "collections": 7}',
        b'{"format": 1, "create_time_seconds": 1, "collections": [7]}',
        b'{"format": 1, "create_time_seconds": 1, "collections": [{"name": 7}]}',
        b'{"format": 1, "create_time_seconds": 1, "collections": [{"name": "../a", "sequence": 1, "documents": 1,'
        b' "passages": 1, "segments": 1, "bytes": 1}]}',
        b'{"format": 1, "create_time_seconds": 1, "collections": [{"name": "a", "sequence": true, "documents": 1,'
        b' "passages": 1, "segments": 1, "bytes": 1}]}',
    ],
)
def test_a_list_with_wrong_types_is_no_backup(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "backup.json").write_bytes(content)
    with pytest.raises(InvalidArgument, match="is not a complete backup"):
        read_backup(tmp_path)


def test_a_newer_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backup.json").write_bytes(b'{"format": 99}')
    with pytest.raises(InvalidArgument, match="newer release"):
        read_backup(tmp_path)


def test_a_collection_that_a_backup_lacks_is_not_found(backup: Path) -> None:
    with pytest.raises(CollectionNotFound):
        verify_backup(backup, "c")


def test_what_killed_backups_left_is_removed_at_start_and_what_is_being_made_stays(
    open_store: OpenStore, tmp_path: Path
) -> None:
    backups = tmp_path / "data" / "backups"
    for name in (".old.partial", ".running.partial", "monday", ".other"):
        (backups / name / "collections").mkdir(parents=True)
    running = try_lock(backups / ".running.partial" / "LOCK")
    assert running is not None
    store = open_store(maintain=False)
    assert sorted(path.name for path in backups.iterdir()) == [".other", ".running.partial", "monday"]
    store.close()
    os.close(running)
    open_store(maintain=False)
    assert sorted(path.name for path in backups.iterdir()) == [".other", "monday"]


def test_a_backup_of_all_names_every_damaged_collection_before_it_starts(open_store: OpenStore, tmp_path: Path) -> None:
    store = open_store(maintain=False)
    for name in "abc":
        store.create(name, collection_config())
    store.close()
    for name in "ac":
        (tmp_path / f"data/collections/{name}/collection.db").write_bytes(b"")
    store = open_store(maintain=False)
    with pytest.raises(DataCorrupted, match=r"collection 'a' .*collection 'c' "):
        store.backup(tmp_path / "backup")
    assert not list(tmp_path.glob("*backup*"))
    assert [entry.name for entry in store.backup(tmp_path / "backup", ["b"]).collections] == ["b"]


def test_a_restored_collection_has_an_identity_of_its_own(backup: Path, store: EmbeddedStore) -> None:
    one, other = store.restore(backup, "a"), store.restore(backup, "a", "copy")
    assert len({one.uid, other.uid, read_backup(backup).entry("a").uid}) == 3
    assert one.info().segment_count == other.info().segment_count == 1
    assert store.verify("a").ok
    assert store.verify("copy").ok
