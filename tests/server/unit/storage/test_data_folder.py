"""What is wrong with a data folder is said in a sentence; what is made in it is for its owner alone."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, ShortlistError, Unavailable
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config


def lock_is_a_folder(data: Path) -> None:
    (data / "LOCK").mkdir(parents=True)


def data_is_a_file(data: Path) -> None:
    data.write_text("")


def collections_is_a_file(data: Path) -> None:
    data.mkdir()
    (data / "collections").write_text("")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lock_is_a_folder, r"LOCK is a folder where a file belongs; move it away"),
        (data_is_a_file, r"data is a file where a folder belongs; move it away"),
        (collections_is_a_file, r"collections is a file where a folder belongs; move it away"),
    ],
)
def test_what_is_in_the_way_of_a_data_folder_is_named(
    tmp_path: Path, harm: Callable[[Path], None], sentence: str
) -> None:
    harm(tmp_path / "data")
    with pytest.raises(InvalidArgument, match=sentence):
        EmbeddedStore(Config(data_dir=tmp_path / "data"))


@pytest.mark.parametrize("name", ["segments", "collection.db"])
def test_what_is_in_the_way_of_a_file_of_a_collection_is_named(
    open_store: OpenStore, tmp_path: Path, name: str
) -> None:
    store = open_store(maintain=False)
    store.create("a", collection_config())
    store.close()
    path = tmp_path / "data/collections/a" / name
    if name == "segments":
        path.rmdir()
        path.write_text("")
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(ShortlistError) as caught:
        open_store(maintain=False).open("a")
    assert type(caught.value) is not ShortlistError
    assert name in caught.value.message or "missing" in caught.value.message


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A data folder with one collection on a file system that is then mounted read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting a file system needs rights this user does not have")
    try:
        store = EmbeddedStore(Config(data_dir=disk / "data"), maintain=False)
        store.create("a", collection_config())
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield disk / "data"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_read_only_file_system_is_named(read_only: Path) -> None:
    with pytest.raises(Unavailable, match="mounted read-only"):
        EmbeddedStore(Config(data_dir=read_only))
    with pytest.raises(Unavailable, match="mounted read-only"):
        EmbeddedStore(Config(data_dir=read_only.parent / "other"))


def test_a_verification_of_a_read_only_folder_gives_no_advice_about_servers(read_only: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "shortlist_cli", "verify", read_only], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "mounted read-only" in run.stderr
    assert "--target" not in run.stderr
    assert "Traceback" not in run.stderr


def open_to_others(folder: Path) -> list[str]:
    paths = [folder, *folder.rglob("*")]
    return [str(path) for path in paths if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]


def test_nobody_else_can_read_what_is_made(
    open_store: OpenStore, maker: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.umask(0)
    try:
        store = open_store(maintain=False)
        collection = store.create("a", collection_config())
        collection.commit([maker.upsert(f"d{i}") for i in range(70)]).result(30)
        # The segment is written by a child process.
        assert collection.flush_now() == 1
        store.backup(tmp_path / "backup")
        store.restore(tmp_path / "backup", "a", "copy")
        assert (collection.folder / "collection.db-wal").exists()
        assert open_to_others(tmp_path / "data") == []
        assert open_to_others(tmp_path / "backup") == []
        store.close()
        assert open_to_others(tmp_path / "data") == []
        with caplog.at_level(logging.WARNING):
            open_store()
        assert not caplog.records
    finally:
        os.umask(before)


def test_what_others_can_read_is_named_with_the_command_that_mends_it(
    open_store: OpenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(maintain=False)
    store.create("a", collection_config())
    store.close()
    folder = tmp_path / "data" / "collections"
    for path in (folder.parent, folder, folder / "a", folder / "a" / "collection.db"):
        path.chmod(0o755)
    with caplog.at_level(logging.WARNING):
        open_store(maintain=False).close()
    (record,) = caplog.records
    assert record.getMessage().endswith(f"chmod -R go= {folder}")
    assert (folder / "a").stat().st_mode & 0o777 == 0o755
    subprocess.run(["chmod", "-R", "go=", folder], check=True)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        open_store(maintain=False)
    assert not caplog.records


def test_a_closed_folder_guards_all_in_it(
    open_store: OpenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(maintain=False)
    store.create("a", collection_config())
    store.close()
    for path in (tmp_path / "data" / "collections").rglob("*"):
        path.chmod(0o755)
    with caplog.at_level(logging.WARNING):
        open_store(maintain=False)
    assert not caplog.records
