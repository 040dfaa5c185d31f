"""The command line against a real server, as a shell would use it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shortlist import Client
from shortlist_server.keys import Scope, new_key
from shortlist_server.testing import server

CORPUS = [
    {"_id": "fox", "title": "The fox", "text": "a quick brown fox jumps over a dog", "year": 2001},
    {"_id": "cat", "title": "The cat", "text": "a lazy cat sleeps on a warm sofa", "year": 2010},
    {"_id": "owl", "title": "The owl", "text": "an old owl hunts mice at night", "year": 2020},
]


def shortlist(*arguments: str, target: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shortlist_cli", *arguments, "--target", target]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def animals(target: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "animals.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in CORPUS))
    run = shortlist("ingest", str(path), "--filterable", "year", target=target)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("animals: 3 durable\n")
    assert "created collection 'animals'" in run.stderr
    return "animals"


def test_search_prints_a_plain_table_in_a_pipe(target: str, animals: str) -> None:
    run = shortlist("search", animals, "quick fox", "--filter", "year<2020", target=target)
    assert run.returncode == 0, run.stderr
    header, first, *others = [line.split("\t") for line in run.stdout.splitlines()]
    assert header == ["rank", "score", "dense", "lexical", "fused", "rerank", "id", "document"]
    assert (first[0], first[6], first[7]) == ("1", "fox", "The fox")
    assert len(others) == 1
    assert " ms (" in run.stderr


def test_search_prints_json(target: str, animals: str) -> None:
    run = shortlist("search", animals, "owl", "--limit", "1", "--no-rerank", "--json", target=target)
    answer = json.loads(run.stdout)
    (hit,) = answer["hits"]
    assert (hit["id"], hit["metadata"], hit["reranks"]) == ("owl", {"year": 2020}, [])
    assert answer["report"]["rerank_stages"] == []


def test_search_reranks_in_the_stages_that_it_is_given(target: str, animals: str) -> None:
    stages = ("--stage", "late-interaction,depth=3,weight=0.5", "--stage", "late-interaction, depth=2")
    run = shortlist("search", animals, "quick fox", *stages, target=target)
    assert run.returncode == 0, run.stderr
    header, *rows = [line.split("\t") for line in run.stdout.splitlines()]
    assert header == ["rank", "score", "dense", "lexical", "fused", "rerank 1", "rerank 2", "id", "document"]
    assert [bool(row[6]) for row in rows] == [True, True, False]
    assert "3, then 2 reranked" in run.stderr
    told = shortlist("search", animals, "quick fox", *stages, "--explain", target=target).stdout
    assert "rerank 1: 3 scored; by late-interaction@" in told
    assert "rerank 2: 2 scored, 1 beyond depth; by late-interaction@" in told
    answer = json.loads(shortlist("search", animals, "fox", *stages, "--json", target=target).stdout)
    assert [stage["model"]["name"] for stage in answer["report"]["rerank_stages"]] == ["late-interaction"] * 2
    assert [score["stage"] for score in answer["hits"][0]["reranks"]] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stage", "late-interaction,wait=1"), "'wait=1' in 'late-interaction,wait=1': a stage is MODEL"),
        (("--stage", "late-interaction,depth=some"), "'depth=some' in"),
        (("--stage", "depth=3"), "names no reranker"),
        (("--stage", "late-interaction", "--depth", "3"), "but not both"),
    ],
)
def test_a_stage_that_cannot_be_read_says_why(
    target: str, animals: str, options: tuple[str, ...], message: str
) -> None:
    run = shortlist("search", animals, "owl", *options, target=target)
    assert run.returncode == 2
    assert message in " ".join(run.stderr.split())


def test_a_collection_is_told_how_its_searches_rerank(target: str, animals: str) -> None:
    nothing = shortlist("collections", "update", animals, target=target)
    assert nothing.returncode == 2
    assert "nothing to change" in nothing.stderr
    stages = ("--stage", "late-interaction,depth=3,weight=0.5", "--stage", "late-interaction,deadline-share=0.5")
    run = shortlist("collections", "update", animals, *stages, target=target)
    assert run.returncode == 0, run.stderr
    assert "config.search_defaults.rerank.stages[0].depth\t3\n" in run.stdout
    assert "config.search_defaults.rerank.stages[1].deadline_share\t0.5\n" in run.stdout
    assert "effective_search_defaults.rerank.stages[1].depth\t50\n" in run.stdout
    one = json.loads(shortlist("collections", "update", animals, "--rerank", "--json", target=target).stdout)
    assert one["config"]["search_defaults"]["rerank"]["stages"] == []


def test_a_number_that_no_request_can_hold_is_an_error_in_one_line(target: str, animals: str) -> None:
    run = shortlist("search", animals, "owl", "--offset", str(2**31), target=target)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "Error: offset: must be an integer of 32 bits\n")


def test_search_explains_itself_to_people_and_to_programs(target: str, animals: str) -> None:
    run = shortlist("search", animals, "quick fox", "-n", "1", "--depth", "2", "--explain", target=target)
    assert run.returncode == 0, run.stderr
    account = run.stdout.partition("\n\n")[2]
    assert "dense: 3 documents of 100 asked (3 passages of each part), by exact, in generation 1\n" in account
    assert "fusion: 3 documents, by weighted sum, weight of dense 0.6\n" in account
    assert "rerank: 2 scored, 1 beyond depth; by late-interaction@" in account
    assert "answer: 1 returned, 2 beyond limit\n" in account
    assert "growing\t3\t\t0\t3\texact\n" in account
    rows = [line.split("\t") for line in account.splitlines() if line.count("\t") == 8]
    assert [(row[0], row[7], row[8]) for row in rows[1:]] == [
        ("1", "returned", "scored"),
        ("2", "beyond limit", "scored"),
        ("3", "beyond limit", "beyond depth"),
    ]
    assert "the embedder read" not in account
    told = shortlist("search", animals, "quick fox", "--explain-texts", target=target).stdout
    assert "the embedder read: quick fox\n" in told
    assert "the reranker read of passage 0 of fox: 3 token vectors\n" in told
    answer = json.loads(shortlist("search", animals, "owl", "--explain", "--json", target=target).stdout)
    assert answer["explanation"]["candidates"][0]["id"] == "owl"
    assert answer["explanation"]["texts"] is None


def test_documents_can_be_shown_counted_and_listed_into_another_ingest(target: str, animals: str) -> None:
    run = shortlist("get", animals, "owl", "nope", target=target)
    assert run.returncode == 1
    assert json.loads(run.stdout)["title"] == "The owl"
    assert "no document 'nope'" in run.stderr
    assert shortlist("count", animals, "-f", "year>=2010", target=target).stdout == "2\n"
    listed = shortlist("list", animals, target=target).stdout
    copied = shortlist("ingest", "-", "-c", "copied", "--json", target=target, stdin=listed)
    assert json.loads(copied.stdout)["durable"] == 3
    assert shortlist("delete", "copied", "fox", target=target).returncode == 0
    assert shortlist("count", "copied", target=target).stdout == "2\n"
    assert shortlist("collections", "delete", "copied", "--yes", target=target).returncode == 0


def test_failed_documents_show_in_the_exit_code_and_in_a_file(target: str, tmp_path: Path) -> None:
    path, failures = tmp_path / "bad.jsonl", tmp_path / "failures.jsonl"
    path.write_bytes(b'{"id": "a", "text": "x"}\n{"id": \n{"id": "b"}\n{"id": "c", "text": "\\ud800"}\n')
    run = shortlist("ingest", str(path), "--failures", str(failures), target=target)
    assert run.returncode == 3, run.stderr
    assert "1 durable, 3 failed" in run.stdout
    assert "bad.jsonl:2: not JSON" in run.stderr
    assert [json.loads(line)["id"] for line in failures.read_text().splitlines()] == ["bad.jsonl:2", "b", "c"]


def test_the_file_of_failures_is_of_this_run_and_goes_on_with_one_that_is_resumed(target: str, tmp_path: Path) -> None:
    path, failures = tmp_path / "corpus.jsonl", tmp_path / "failures.jsonl"
    command = ("ingest", str(path), "-c", "resumed", "--failures", str(failures), "--checkpoint", str(tmp_path / "at"))
    path.write_text('{"id": "a", "text": "x"}\n')
    failures.write_text("of last week\n")
    assert shortlist(*command, target=target).returncode == 0
    assert failures.read_text() == ""
    path.write_text('{"id": "bad1"}\n' + '{"id": "a", "text": "x"}\n' * 3 + '{"id": "bad2"}\n')
    with Client(target) as client:
        run = client.ingest("resumed", [{"id": "bad1"}], checkpoint=tmp_path / "at")
        next(run)
        run.close()
    failures.write_text('{"id": "bad1"}\n')
    assert shortlist(*command, target=target).returncode == 3
    ids = [json.loads(line)["id"] for line in failures.read_text().splitlines()]
    assert (ids[0], ids[-1], set(ids)) == ("bad1", "bad2", {"bad1", "bad2"})


@pytest.mark.parametrize(
    "arguments", [("--failures", "no/file"), ("--checkpoint", "no/file"), ("--format", "csv", "-c", "folder")]
)
def test_a_file_that_cannot_be_used_is_said_in_a_line(target: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    source = tmp_path if "csv" in arguments else tmp_path / "unwritable.jsonl"
    (tmp_path / "unwritable.jsonl").write_text('{"id": "a", "text": "x"}\n')
    run = shortlist("ingest", str(source), *arguments, target=target)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("Error: ")


def test_failures_stand_above_the_progress_display(target: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n')
    terminal, its_end = os.openpty()
    command = [sys.executable, "-m", "shortlist_cli", "ingest", str(path), "--target", target]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=its_end) as process:
        os.close(its_end)
        shown = b""
        # Linux ends a terminal that nobody writes to with an error.
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 65536):
                shown += data
    os.close(terminal)
    assert process.returncode == 3
    (line,) = [line for line in shown.decode().split("\n") if "document.text" in line]
    assert "ingest" not in line.rpartition("\x1b[2K")[2]


def test_totals_are_json_also_when_an_id_is_not_utf_8(target: str, tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"id,text\nol\xe9,x\n")
    command = [sys.executable, "-X", "utf8", "-m", "shortlist_cli", "ingest", str(path), "--json", "--target", target]
    run = subprocess.run(
        command,
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert run.returncode == 3, run.stderr
    assert [failure["id"] for failure in json.loads(run.stdout)["failures"]] == ["ol\udce9"]


def test_a_dry_run_makes_an_estimate(target: str, animals: str) -> None:
    run = shortlist("ingest", "-", "-c", animals, "--dry-run", target=target, stdin='{"id": "new", "text": "x"}\n')
    assert run.returncode == 0, run.stderr
    assert "1 valid" in run.stdout
    assert "nothing written" in run.stdout
    assert shortlist("count", animals, target=target).stdout == "3\n"


def test_a_dry_run_makes_no_collection(target: str) -> None:
    run = shortlist("ingest", "-", "-c", "not-made", "--dry-run", target=target, stdin='{"id": "new", "text": "x"}\n')
    assert (run.returncode, "dry run creates none" in run.stderr) == (1, True)
    assert shortlist("count", "not-made", target=target).returncode == 1


def test_resuming_a_finished_file_finds_everything_unchanged(target: str, tmp_path: Path) -> None:
    path = tmp_path / "again.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in CORPUS))
    assert shortlist("ingest", str(path), "--resume", target=target).returncode == 0
    run = shortlist("ingest", str(path), "--resume", target=target)
    assert "again: 3 unchanged" in run.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["again.jsonl"]


def test_a_key_that_may_only_write_is_enough_for_an_ingest_that_makes_nothing(tmp_path: Path) -> None:
    (owner, all_scopes), (feeder, write) = new_key("owner", Scope), new_key("feeder", [Scope.WRITE])
    with server(tmp_path, api_keys=(all_scopes.entry(), write.entry())) as running:
        with Client(running.target, api_key=owner) as client:
            client.create_collection("fed")
        command = ("ingest", "-", "--no-create", "--api-key", feeder)
        run = shortlist(*command, "-c", "fed", target=running.target, stdin='{"id": "a", "text": "x"}\n')
        assert (run.returncode, run.stdout.startswith("fed: 1 durable")) == (0, True), run.stderr
        missing = shortlist(*command, "-c", "missing", target=running.target, stdin='{"id": "a", "text": "x"}\n')
        assert (missing.returncode, "no collection 'missing'" in missing.stderr) == (1, True)


def test_collections_are_created_listed_and_shown(target: str) -> None:
    made = shortlist("collections", "create", "made", "--filterable", "year", "--json", target=target)
    assert json.loads(made.stdout)["config"]["filterable_fields"] == ["year"]
    assert "made" in [
        line.split("\t")[0] for line in shortlist("collections", "list", target=target).stdout.splitlines()
    ]
    assert "config.embedder\thashing" in shortlist("collections", "show", "made", target=target).stdout
    again = shortlist("collections", "create", "made", target=target)
    assert (again.returncode, again.stderr.startswith("Error: ")) == (1, True)
    assert shortlist("collections", "delete", "made", target=target, stdin="y\n").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("search", "nowhere", "x"), 1, "no collection"),
        (("search", "animals", "x", "--filter", "year"), 2, "is not a filter"),
        (("ingest", "-"), 2, "--collection"),
        (("ingest", "-", "-c", "x", "--format", "text"), 2, "not standard input"),
        (("delete", "animals"), 2, "ids or a filter"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(target: str, arguments: tuple[str, ...], code: int, message: str) -> None:
    run = shortlist(*arguments, target=target)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_no_server_is_said_with_what_to_do() -> None:
    run = shortlist("count", "x", target="127.0.0.1:1")
    assert run.returncode == 1
    assert "shortlist serve" in run.stderr
    assert "Traceback" not in run.stderr
