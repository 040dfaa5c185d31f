"""The operators' commands against a real server and real folders, as a shell would use them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import Client, CollectionConfig, CommitsLost, DataCorrupted, Document, InvalidArgument
from shortlist_server.testing import TestServer, server

NOTES = [Document(id=f"n{i}", text=f"note{i} about something") for i in range(30)]


def shortlist(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shortlist_cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def table(output: str) -> list[dict[str, str]]:
    header, *rows = [line.split("\t") for line in output.splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def fill(running: TestServer) -> None:
    with Client(running.target) as client:
        client.create_collection("notes")
        client.ingest("notes", NOTES).finish()
        client.create_collection("vectors", CollectionConfig(embedder="none", dimension=2))
        client.ingest("vectors", [{"id": "a", "vector": [1, 2]}]).finish()


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """A server with the collections "notes" and "vectors"."""
    with server(tmp_path_factory.mktemp("data")) as running:
        fill(running)
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder of a stopped server, with the same collections and a backup "saved"; "notes" has a segment."""
    with server(tmp_path / "data", segment_min_passages=30) as running:
        fill(running)
        segments = tmp_path / "data" / "collections" / "notes" / "segments"
        with Client(running.target) as client:
            while client.get_collection("notes").segment_count == 0:
                time.sleep(0.05)
            client.backup("saved")
        assert any(segments.iterdir())
    return tmp_path / "data"


def test_info_says_what_the_server_is(notes: TestServer) -> None:
    shown = {row["property"]: row["value"] for row in table(shortlist("info", "--target", notes.target).stdout)}
    assert int(shown["collections"]) >= 2
    assert shown["embedder hashing"].startswith("256 dimensions")
    assert "reranker late-interaction" in shown
    values = json.loads(shortlist("info", "--json", "--target", notes.target).stdout)
    assert values["embedders"][0]["name"] == "hashing"


def test_health_is_an_exit_code(notes: TestServer, tmp_path: Path) -> None:
    run = shortlist("health", "--target", notes.target)
    assert (run.returncode, run.stdout) == (0, "serving\n")
    assert shortlist("health", "--service", "shortlist.v1.SearchService", "--target", notes.target).returncode == 0
    run = shortlist("health", "--service", "shortlist.v1.Nothing", "--target", notes.target)
    assert (run.returncode, run.stderr) == (1, "Error: the server has no service 'shortlist.v1.Nothing'\n")
    with server(tmp_path, min_free_disk_bytes=2**62) as full:
        assert shortlist("health", "--target", full.target).returncode == 0
        run = shortlist("health", "--service", "shortlist.v1.DocumentService", "--target", full.target)
        assert (run.returncode, run.stderr) == (1, "Error: not serving\n")
    run = shortlist("health", "--target", full.target, "--timeout", "2")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


def test_a_server_is_verified(notes: TestServer) -> None:
    run = shortlist("verify", "--target", notes.target)
    assert run.returncode == 0, run.stderr
    shown = {row["collection"]: row for row in table(run.stdout)}
    assert (shown["notes"]["result"], shown["notes"]["documents"], shown["notes"]["problems"]) == ("ok", "30", "0")
    run = shortlist("verify", "-c", "vectors", "--json", "--target", notes.target)
    (report,) = json.loads(run.stdout)
    assert (report["collection"], report["ok"]) == ("vectors", True)
    assert all(check["ok"] for check in report["checks"])


def test_collections_are_backed_up_listed_and_restored(notes: TestServer) -> None:
    run = shortlist("backup", "one", "notes", "--target", notes.target)
    assert run.returncode == 0, run.stderr
    (row,) = table(run.stdout)
    assert (row["collection"], row["sequence"], row["documents"]) == ("notes", "30", "30")
    made = json.loads(shortlist("backup", "all", "--json", "--target", notes.target).stdout)
    assert {"notes", "vectors"} <= {one["name"] for one in made["collections"]}
    listed = table(shortlist("backups", "--target", notes.target).stdout)
    assert [row["name"] for row in listed] == ["all", "one"]
    assert [backup["name"] for backup in json.loads(shortlist("backups", "--json", "--target", notes.target).stdout)]
    run = shortlist("restore", "one", "notes", "--as", "notes-again", "--target", notes.target)
    assert run.stdout == "notes-again: 30 documents, 30 passages\n"
    again = shortlist("restore", "one", "notes", "--target", notes.target)
    assert again.returncode == 1
    assert "collection 'notes' exists" in again.stderr


def test_dead_letters_are_listed_retried_and_deleted(notes: TestServer) -> None:
    lines = '{"id": "bad", "text": "x", "vector": [1, 2, 3]}\n{"id": "worse", "vector": [0, 0]}\n'
    assert shortlist("ingest", "-", "-c", "vectors", "--target", notes.target, stdin=lines).returncode == 3
    listed = table(shortlist("dead-letters", "list", "vectors", "--target", notes.target).stdout)
    assert [(row["id"], row["reason"]) for row in listed] == [("bad", "INVALID_VECTOR"), ("worse", "INVALID_VECTOR")]
    documents = shortlist("dead-letters", "list", "vectors", "--documents", "--target", notes.target).stdout
    assert json.loads(documents.splitlines()[0])["vector"] == [1.0, 2.0, 3.0]
    run = shortlist("dead-letters", "retry", "vectors", "--target", notes.target)
    assert (run.returncode, run.stdout) == (3, "vectors: 2 failed\n")
    assert "bad: document.vector: " in run.stderr
    failures = json.loads(shortlist("dead-letters", "list", "vectors", "--json", "--target", notes.target).stdout)
    first = str(failures[0]["number"])
    assert shortlist("dead-letters", "delete", "vectors", first, "--target", notes.target).stderr == "deleted 1\n"
    asked = shortlist("dead-letters", "delete", "vectors", "--target", notes.target, stdin="n\n")
    assert asked.returncode == 1
    mended = documents.splitlines()[1].replace("[0.0, 0.0]", "[0.0, 1.0]")
    assert shortlist("ingest", "-", "-c", "vectors", "--target", notes.target, stdin=mended).returncode == 0
    run = shortlist("dead-letters", "retry", "vectors", "--target", notes.target)
    assert (run.returncode, run.stdout) == (0, "vectors: nothing to retry\n")
    assert shortlist("dead-letters", "delete", "vectors", "-y", "--target", notes.target).stderr == "deleted 0\n"


def test_a_folder_and_a_backup_are_verified_without_a_server(folder: Path) -> None:
    for place, reached in ((folder, "30/30"), (folder / "backups" / "saved", "0/0")):
        run = shortlist("verify", str(place))
        assert run.returncode == 0, run.stderr
        rows = table(run.stdout)
        assert [(row["collection"], row["result"]) for row in rows] == [("notes", "ok"), ("vectors", "ok")]
        assert rows[0]["reached"] == reached
    assert len(table(shortlist("verify", str(folder), "-c", "vectors").stdout)) == 1


def test_a_damaged_segment_is_named_and_rebuilt(folder: Path) -> None:
    segments = folder / "collections" / "notes" / "segments"
    (segment,) = segments.iterdir()
    shutil.rmtree(segment)
    run = shortlist("verify", str(folder), "--json", "--repair")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)[0]
    assert report["ok"]
    assert report["repairs"] == ["1 segments were built from passages that were searched exactly"]
    assert len(list(segments.iterdir())) == 1


def test_damage_is_the_exit_code_and_leaves_the_others_checked(folder: Path) -> None:
    database = folder / "collections" / "notes" / "collection.db"
    database.write_bytes(b"nothing of a database")
    run = shortlist("verify", str(folder))
    assert run.returncode == 1
    assert [(row["collection"], row["result"]) for row in table(run.stdout)] == [
        ("notes", "DAMAGED"),
        ("vectors", "ok"),
    ]
    assert "notes: database: " in run.stderr
    assert "restore" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("verify", "{data}"), 1, "in use"),
        (("verify", "{data}/collections"), 1, "no data folder"),
        (("verify", "{data}/nothing"), 2, "does not exist"),
        (("verify", "{data}", "--target", "{target}"), 2, "not both"),
        (("verify", "-c", "absent", "--target", "{target}"), 1, "no collection"),
        (("backup", "../out", "--target", "{target}"), 1, "name: "),
        (("restore", "absent", "notes", "--target", "{target}"), 1, "no backup"),
        (("dead-letters", "list", "absent", "--target", "{target}"), 1, "no collection"),
        (("dead-letters", "list", "notes", "--json", "--documents", "--target", "{target}"), 2, "--documents"),
        (("backup", "late", "--timeout", "0.000001", "--target", "{target}"), 1, "eadline"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    notes: TestServer, arguments: tuple[str, ...], code: int, message: str
) -> None:
    run = shortlist(*(argument.format(data=notes.data_dir, target=notes.target) for argument in arguments))
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_no_folder_is_made_where_there_was_none(tmp_path: Path) -> None:
    assert shortlist("verify", str(tmp_path)).returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_is_not_what_it_says_is_damaged_and_the_advice_is_another_backup(folder: Path) -> None:
    saved = folder / "backups" / "saved"
    database = saved / "collections" / "notes" / "collection.db"
    shutil.copyfile(saved / "collections" / "vectors" / "collection.db", database)
    run = shortlist("verify", str(saved))
    assert run.returncode == 1
    assert [row["result"] for row in table(run.stdout)] == ["DAMAGED", "ok"]
    assert "use another backup" in run.stderr
    assert "--repair" not in run.stderr
    assert "restore" not in run.stderr
    run = shortlist("verify", str(saved), "--repair")
    assert run.returncode == 2
    assert "a backup is not repaired" in run.stderr


def test_lost_commits_are_refused_until_their_loss_is_accepted(folder: Path) -> None:
    (folder / "collections" / "notes" / "last-commit").unlink()
    for arguments in ([], ["--repair"]):
        run = shortlist("verify", str(folder), *arguments)
        assert run.returncode == 1
        assert "shortlist verify --repair --accept-loss" in run.stderr
    assert shortlist("verify", str(folder), "--accept-loss").returncode == 2
    with server(folder) as running, Client(running.target) as client:
        with pytest.raises(CommitsLost, match="record of its last commit"):
            client.get("notes", ["n1"])
        with pytest.raises(InvalidArgument):
            client.verify("notes", accept_loss=True)
        (report,) = client.verify("notes", repair=True, accept_loss=True)
        assert report.ok
        assert "the loss was accepted" in report.repairs[0]
        assert client.get("notes", ["n1"]) != [None]
        client.ingest("notes", [Document(id="new", text="new")]).finish()
        assert client.get_collection("notes").sequence > 31
    assert shortlist("verify", str(folder)).returncode == 0


def test_one_damaged_collection_leaves_the_others_listed_and_named_in_a_backup(folder: Path) -> None:
    (folder / "collections" / "notes" / "collection.db").write_bytes(b"")
    with server(folder) as running, Client(running.target) as client:
        notes, vectors = client.list_collections()
        assert (notes.name, notes.document_count) == ("notes", 0)
        assert "collection 'notes'" in notes.problem
        assert (vectors.name, vectors.document_count, vectors.problem) == ("vectors", 1, "")
        run = shortlist("collections", "list", "--target", running.target)
        assert run.returncode == 0
        assert "notes cannot be used" in run.stderr
        with pytest.raises(DataCorrupted, match=r"nothing was backed up.*collection 'notes'"):
            client.backup("all")
        assert [one.name for one in client.backup("some", ["vectors"]).collections] == ["vectors"]
        with pytest.raises(DataCorrupted):
            client.get_collection("notes")


def test_a_list_of_backups_passes_by_what_is_none(folder: Path) -> None:
    broken = folder / "backups" / "broken"
    broken.mkdir()
    (broken / "backup.json").write_text('{"format": 1, "create_time_seconds": "x", "collections": [{"name": 7}]}')
    with server(folder) as running, Client(running.target) as client:
        assert [backup.name for backup in client.list_backups()] == ["saved"]
