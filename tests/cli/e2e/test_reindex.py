"""``shortlist reindex`` against a real server, as a shell would use it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import (
    Client,
    CollectionConfig,
    Document,
    GenerationNotReady,
    ModelMismatch,
    Rerank,
    SearchDefaults,
)
from shortlist_server.testing import TestServer, server

DOCUMENTS = [Document(id=f"n{i}", text=f"note{i} about something and number{i % 7}") for i in range(60)]
MANY = [Document(id=f"m{i}", text=" ".join(f"word{i * j}" for j in range(150))) for i in range(200)]
"""So many that a build is still under way when the next command comes."""


def shortlist(*arguments: str, target: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shortlist_cli", *arguments, "--target", target]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def table(text: str) -> list[dict[str, str]]:
    header, *rows = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(header, row, strict=True)) for row in rows]


def pairs(text: str, title: str) -> dict[str, str]:
    """The table of two columns whose first heading is the title."""
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"{title}\t"))
    rows = []
    for line in lines[begin + 1 :]:
        cells = line.split("\t")
        if len(cells) != 2:
            break
        rows.append(cells)
    return dict(rows)


def states(target: str, collection: str) -> list[tuple[str, str]]:
    run = shortlist("reindex", "list", collection, target=target)
    assert run.returncode == 0, run.stderr
    return [(row["number"], row["state"]) for row in table(run.stdout)]


@pytest.fixture(scope="module")
def running() -> Iterator[TestServer]:
    with server(embedders=("hashing", "small=hashing:64", "tiny=hashing:16"), sampled_queries=100) as started:
        yield started


@pytest.fixture
def notes(running: TestServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """A collection of the test's own; its name."""
    name = f"c{abs(hash(request.node.nodeid)) % 10**12}"
    with Client(running.target) as client:
        client.create_collection(name, CollectionConfig(embedder="hashing"))
        client.ingest(name, DOCUMENTS).finish()
        yield name
        client.delete_collection(name)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of judged queries without a corpus."""
    folder = tmp_path_factory.mktemp("judged")
    queries = [{"_id": f"q{i}", "text": f"note{i} something"} for i in range(20)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i}\tn{i}\t1\n" for i in range(20)))
    return folder


def test_run_builds_compares_switches_and_says_how_to_go_back(running: TestServer, notes: str, judged: Path) -> None:
    arguments = ("reindex", "run", notes, "--embedder", "small", "--judged", str(judged))
    run = shortlist(*arguments, target=running.target, stdin="y\ny\n")
    assert run.returncode == 0, run.stderr
    assert pairs(run.stdout, "needs")["documents"] == "60"
    assert pairs(run.stdout, "comparison")["queries"] == "20"
    rankings = [line.split("\t")[0] for line in run.stdout.splitlines() if line.count("\t") == 7]
    assert {"ranking", "dense", "lexical", "fused", "final"} <= set(rankings)
    assert f"{notes}: generation 2 serves (small, 64 dimensions" in run.stdout
    assert f"shortlist reindex rollback {notes}" in run.stderr
    assert f"shortlist reindex drop {notes} 1" in run.stderr
    assert states(running.target, notes) == [("1", "former"), ("2", "serving")]


def test_run_without_a_yes_changes_nothing_and_goes_on_later(running: TestServer, notes: str, judged: Path) -> None:
    arguments = ("reindex", "run", notes, "--embedder", "small", "--judged", str(judged))
    run = shortlist(*arguments, target=running.target, stdin="n\n")
    assert run.returncode == 1
    assert states(running.target, notes) == [("1", "serving")]
    run = shortlist(*arguments, target=running.target, stdin="y\nn\n")
    assert run.returncode == 0, run.stderr
    assert "nothing has changed for callers" in run.stderr
    assert states(running.target, notes) == [("1", "serving"), ("2", "ready to serve")]
    other = shortlist("reindex", "run", notes, "--embedder", "hashing", target=running.target)
    assert other.returncode == 1
    assert "generation 2 with embedder small is being built already" in other.stderr
    run = shortlist(*arguments, "--yes", target=running.target)
    assert run.returncode == 0, run.stderr
    assert "going on with generation 2" in run.stderr
    assert states(running.target, notes) == [("1", "former"), ("2", "serving")]


def test_yes_does_not_switch_to_what_ranks_worse(running: TestServer, notes: str, tmp_path: Path) -> None:
    with Client(running.target) as client:
        # Vectors of 16 dimensions cannot tell the texts apart, and the word index is not asked.
        client.update_collection(notes, SearchDefaults(mode="dense", rerank=Rerank(enabled=False)))
    queries = [{"_id": f"q{i}", "text": f"note{i}"} for i in range(60)]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (tmp_path / "test.qrels").write_text("".join(f"q{i} 0 n{i} 1\n" for i in range(60)))
    files = ("--queries", str(tmp_path / "queries.jsonl"), "--qrels", str(tmp_path / "test.qrels"))
    run = shortlist("reindex", "run", notes, "--embedder", "tiny", *files, "--yes", target=running.target)
    assert run.returncode == 4, run.stderr
    assert "ranks worse" in run.stderr
    assert states(running.target, notes) == [("1", "serving"), ("2", "ready to serve")]


def test_each_step_has_its_command(running: TestServer, notes: str, judged: Path) -> None:
    target = running.target
    estimate = shortlist("reindex", "start", notes, "--embedder", "small", "--estimate", "--json", target=target)
    assert json.loads(estimate.stdout)["document_count"] == 60
    assert states(target, notes) == [("1", "serving")]
    made = shortlist("reindex", "start", notes, "--embedder", "small", "--wait", "--json", target=target)
    assert made.returncode == 0, made.stderr
    assert (json.loads(made.stdout)["number"], json.loads(made.stdout)["complete"]) == (2, True)
    shown = json.loads(shortlist("reindex", "status", notes, "--json", target=target).stdout)
    assert [one["state"] for one in shown["generations"]] == ["serving", "building"]
    found = shortlist("search", notes, "note3", "--generation", "2", "--json", target=target)
    assert json.loads(found.stdout)["report"]["generation"] == 2
    compared = shortlist("reindex", "compare", notes, "--judged", str(judged), "--json", target=target)
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)["rankings"].keys() >= {"dense", "final"}
    switched = shortlist("reindex", "switch", notes, "--yes", "--json", target=target)
    assert json.loads(switched.stdout)["serving"]["number"] == 2
    back = shortlist("reindex", "rollback", notes, "--yes", target=target)
    assert f"{notes}: generation 1 serves (hashing, 256 dimensions" in back.stdout
    assert states(target, notes) == [("1", "serving"), ("2", "former")]
    asked = shortlist("reindex", "drop", notes, "2", target=target, stdin="n\n")
    assert asked.returncode == 1
    assert shortlist("reindex", "drop", notes, "2", "--yes", target=target).stderr == "dropped generation 2\n"
    assert ("2", "former") not in states(target, notes)


def test_recent_queries_compare_generations_too(running: TestServer, notes: str) -> None:
    with Client(running.target) as client:
        for number in range(12):
            client.search(notes, f"note{number} about something")
    run = shortlist("reindex", "start", notes, "--max-tokens", "32", "--wait", target=running.target)
    assert run.returncode == 0, run.stderr
    run = shortlist("reindex", "compare", notes, "--recent", "10", target=running.target)
    assert run.returncode == 0, run.stderr
    assert 1 <= int(pairs(run.stdout, "comparison")["queries"]) <= 10
    assert "nDCG" not in run.stdout


def test_a_build_is_paused_resumed_and_cancelled(running: TestServer, notes: str) -> None:
    with Client(running.target) as client:
        client.ingest(notes, MANY).finish()
    target = running.target
    assert shortlist("reindex", "start", notes, "--embedder", "small", target=target).returncode == 0
    assert shortlist("reindex", "pause", notes, target=target).returncode == 0
    shown = json.loads(shortlist("reindex", "status", notes, "--json", target=target).stdout)
    assert shown["generations"][1]["paused_reason"]
    assert shown["progress"]["paused_reason"]
    assert states(target, notes) == [("1", "serving"), ("2", "paused")]
    assert shortlist("reindex", "resume", notes, target=target).returncode == 0
    assert shortlist("reindex", "cancel", notes, "--yes", target=target).returncode == 0
    assert ("1", "serving") in states(target, notes)
    again = shortlist("reindex", "pause", notes, target=target)
    assert again.returncode == 1
    assert "no generation" in again.stderr


def test_ctrl_c_ends_the_command_and_not_the_build(running: TestServer, notes: str) -> None:
    with Client(running.target) as client:
        client.ingest(notes, MANY).finish()
        # Enough for the build to last until the interrupt has come.
        client.ingest(notes, [Document(id=f"{n}-{one.id}", text=one.text) for n in range(6) for one in MANY]).finish()
    command = [sys.executable, "-m", "shortlist_cli", "reindex", "run", notes, "--embedder", "small", "--yes"]
    with subprocess.Popen([*command, "--target", running.target], stderr=subprocess.PIPE, text=True) as process:
        while len(found := states(running.target, notes)) < 2:
            assert process.poll() is None
        assert found[1] == ("2", "building")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the server goes on building" in told
    assert "Traceback" not in told
    run = shortlist(*command[3:], target=running.target)
    assert run.returncode == 0, run.stderr
    assert "going on with generation 2" in run.stderr
    assert states(running.target, notes) == [("1", "former"), ("2", "serving")]


def test_a_new_revision_of_a_model_is_taken_by_a_reindex(tmp_path: Path) -> None:
    with server(tmp_path, embedders=("m=hashing:64",)) as first, Client(first.target) as client:
        client.create_collection("notes")
        client.ingest("notes", DOCUMENTS).finish()
    both = ("m=hashing:64:2", "m=hashing:64")
    with server(tmp_path, embedders=both) as second:
        listed = shortlist("collections", "list", target=second.target)
        assert "notes: it serves revision hashing-1-64 of embedder 'm'" in listed.stderr
        run = shortlist("reindex", "run", "notes", target=second.target, stdin="y\ny\n")
        assert run.returncode == 0, run.stderr
        assert [
            row["revision"] for row in table(shortlist("reindex", "list", "notes", target=second.target).stdout)
        ] == [
            "hashing-1-64",
            "hashing-2-64",
        ]
        assert shortlist("collections", "list", target=second.target).stderr == ""
    with server(tmp_path, embedders=("m=hashing:64:2",)) as third, Client(third.target) as client:
        assert client.search("notes", "note3").report.degradations == ()
        client.ingest("notes", [Document(id="new", text="a new note")]).finish()
        with pytest.raises(GenerationNotReady):
            client.roll_back_generation("notes")


def test_without_the_stored_revision_words_answer_until_a_reindex(tmp_path: Path) -> None:
    with server(tmp_path, embedders=("m=hashing:64",)) as first, Client(first.target) as client:
        client.create_collection("notes")
        client.ingest("notes", DOCUMENTS).finish()
    with server(tmp_path, embedders=("m=hashing:64:2",)) as second, Client(second.target) as client:
        found = client.search("notes", "note3")
        assert found[0].id == "n3"
        assert [one.kind for one in found.report.degradations] == ["embedder_missing"]
        with pytest.raises(ModelMismatch):
            client.search("notes", "note3", mode="dense")
        with pytest.raises(ModelMismatch):
            client.ingest("notes", [Document(id="new", text="a new note")]).finish()
        run = shortlist("reindex", "run", "notes", "--yes", target=second.target)
        assert run.returncode == 0, run.stderr
        assert client.search("notes", "note3", mode="dense")[0].id == "n3"
        assert client.search("notes", "note3").report.degradations == ()
        client.ingest("notes", [Document(id="new", text="a new note")]).finish()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("start", "absent"), 1, "no collection"),
        (("start", "{notes}", "--embedder", "absent"), 1, "absent"),
        (("start", "{notes}", "--overlap-tokens", "3"), 2, "--overlap-tokens needs --max-tokens"),
        (("start", "{notes}", "--estimate"), 1, "exactly these settings"),
        (("run", "{notes}", "--yes"), 1, "exactly these settings"),
        (("switch", "{notes}", "--yes"), 1, "generation"),
        (("rollback", "{notes}", "--yes"), 1, "generation"),
        (("drop", "{notes}", "1", "--yes"), 1, "generation 1"),
        (("drop", "{notes}", "7", "--yes"), 1, "generation"),
        (("cancel", "{notes}", "--yes"), 1, "no generation"),
        (("compare", "{notes}", "--recent", "5", "--judged", "."), 2, "--recent"),
        (("compare", "{notes}", "--qrels", "{file}"), 2, "--qrels and --queries go together"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    running: TestServer, notes: str, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    file = tmp_path / "qrels"
    file.write_text("q 0 n 1\n")
    filled = [argument.format(notes=notes, file=file) for argument in arguments]
    run = shortlist("reindex", *filled, target=running.target)
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
