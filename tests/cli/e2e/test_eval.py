"""``shortlist eval`` as a user runs it: a judged folder, a real server process, figures on standard output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from click import ClickException

from shortlist import Client, CollectionConfig, Document, SearchDefaults
from shortlist_cli.evaluation.subject import open_server
from shortlist_server.testing import server

STAGES = {"dense", "lexical", "fused", "final"}

CORPUS = {
    "owl": "The owl hunts mice at night and turns its head without moving its eyes.",
    "whale": "The blue whale is the largest animal; it feeds on krill in cold seas.",
    "camel": "The camel stores fat in its hump and walks for days without water.",
    "empty": "",
}
QUERIES = {"q1": "which bird hunts mice at night", "q2": "animal that walks for days without water"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "animals"
    (path / "qrels").mkdir(parents=True)
    rows = [{"_id": id, "title": "", "text": text} for id, text in CORPUS.items()]
    (path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "queries.jsonl").write_text("".join(json.dumps({"_id": id, "text": q}) + "\n" for id, q in QUERIES.items()))
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\towl\t1\nq2\tcamel\t1\n")
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shortlist_cli", "eval", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_json_is_one_object_with_every_figure(folder: Path) -> None:
    ran = run(folder, "--json", "--", "--embedder", "hashing")
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    for measure in ("ndcg_at_10", "recall_at_100", "mrr_at_10"):
        assert set(figures[measure]) == STAGES
        assert all(0 <= value <= 1 for value in figures[measure].values())
    assert figures["ndcg_at_10"]["lexical"] == figures["mrr_at_10"]["final"] == 1.0
    assert (figures["documents"], figures["queries"], figures["failed_documents"]) == (4, 2, 1)
    assert 0 < figures["search_p50_ms"] <= figures["search_p99_ms"]
    assert figures["ingest_documents_per_second"] > 0
    assert figures["server_ready_seconds"] > 0
    assert "'empty' was refused" in ran.stderr


def test_without_json_it_is_tables_that_a_pipe_can_cut(folder: Path) -> None:
    ran = run(folder, "--", "--embedder", "hashing")
    assert ran.returncode == 0, ran.stderr
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert rows[0] == ["ranking", "nDCG@10", "recall@100", "MRR@10"]
    assert {row[0] for row in rows[1:5]} == STAGES


def test_a_running_server_is_left_as_it_was_unless_asked(folder: Path, target: str) -> None:
    with Client(target) as client:
        assert run(folder, "--json", "--target", target).returncode == 0
        assert "eval" not in {collection.name for collection in client.list_collections()}
        first = json.loads(run(folder, "--json", "--target", target, "--keep", "--collection", "kept").stdout)
        assert client.count("kept") == 3
        again = run(folder, "--json", "--target", target, "--collection", "kept")
        assert "exists already" in again.stderr
        assert client.count("kept") == 3
        second = json.loads(again.stdout)
    assert second["ingest_documents_per_second"] is None
    assert second["ndcg_at_10"] == first["ndcg_at_10"]
    assert "server_memory_bytes" not in second


def test_the_data_of_a_new_server_is_kept_where_asked(folder: Path, tmp_path: Path) -> None:
    ran = run(folder, "--json", "--data-dir", tmp_path / "data", "--", "--embedder", "hashing")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "data" / "collections" / "eval" / "collection.db").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dev"], "qrels/dev.tsv is missing"),
        (["--target", "127.0.0.1:1", "--data-dir", "x"], "--target uses a running server"),
        (["--keep"], "--keep needs --target"),
    ],
)
def test_bad_arguments_end_with_code_2_and_say_why(folder: Path, arguments: list[str], message: str) -> None:
    ran = run(folder, *arguments)
    assert ran.returncode == 2
    assert message in " ".join(ran.stderr.split())
    assert ran.stdout == ""


def test_a_folder_that_is_none_ends_with_code_2(tmp_path: Path) -> None:
    ran = run(tmp_path / "nothing")
    assert ran.returncode == 2
    assert "is not a folder" in " ".join(ran.stderr.split())


def test_a_server_that_does_not_start_is_an_error_and_not_a_traceback(folder: Path) -> None:
    ran = run(folder, "--", "--embedder", "no-such-model")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "no-such-model" in ran.stderr


def test_nobody_at_the_target_is_an_error_and_not_a_traceback(folder: Path) -> None:
    ran = run(folder, "--target", "127.0.0.1:1")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr


def test_a_sweep_is_saved_with_its_report_and_can_be_compared(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    sweep = ("--sweep", "rerank.weight=0,1", "--sweep", "candidates.exact=true")
    ran = run(folder, "--json", *sweep, "--output", out, "--", "--embedder", "hashing")
    assert ran.returncode == 0, ran.stderr
    settings = json.loads(ran.stdout)["settings"]
    assert [setting["label"] for setting in settings] == [
        "defaults",
        "rerank.weight=0, candidates.exact=true",
        "rerank.weight=1, candidates.exact=true",
    ]
    assert settings[0]["versus_defaults"] is None
    assert settings[1]["versus_defaults"]["p_adjusted"] <= 1
    assert all(setting["latency"]["p50_ms"] > 0 for setting in settings)
    queries = [json.loads(line) for line in (out / "queries.jsonl").read_text().splitlines()]
    assert len(queries) == 6
    assert queries[0]["ids"]["lexical"][0] == "owl"
    assert "chart-stages-ndcg_at_10" in (out / "report.html").read_text()
    compared = run("compare", out, out, "--setting-b", "rerank.weight=1, candidates.exact=true", "--json")
    assert compared.returncode == 0, compared.stderr
    assert json.loads(compared.stdout)["queries"] == 2
    table = run("compare", out, out, "--fail-if-worse")
    assert table.returncode == 0
    assert table.stdout.splitlines()[0].split("\t")[:4] == ["ranking", "measure", "A", "B"]


def test_a_collection_that_is_there_is_measured_as_it_is(folder: Path, target: str) -> None:
    with Client(target) as client:
        client.create_collection("live")
        client.ingest("live", [{"id": id, "text": text} for id, text in CORPUS.items() if text]).finish()
        before = client.get_collection("live").sequence
        files = ("--qrels", folder / "qrels" / "test.tsv", "--queries", folder / "queries.jsonl")
        ran = run("--json", "--target", target, "--collection", "live", *files)
        assert ran.returncode == 0, ran.stderr
        figures = json.loads(ran.stdout)
        assert figures["ndcg_at_10"]["lexical"] == 1.0
        assert figures["documents"] == 3
        assert figures["ingest_documents_per_second"] is None
        assert client.get_collection("live").sequence == before


def test_a_collection_without_an_embedder_is_measured_by_its_words(folder: Path, target: str, tmp_path: Path) -> None:
    with Client(target) as client:
        client.create_collection("vectors", CollectionConfig(embedder="none", dimension=2))
        documents = [Document(id=id, text=text, vector=[1.0, 0.0]) for id, text in CORPUS.items() if text]
        client.ingest("vectors", documents).finish()
        out = tmp_path / "run"
        files = ("--qrels", folder / "qrels" / "test.tsv", "--queries", folder / "queries.jsonl", "--output", out)
        ran = run("--json", "--target", target, "--collection", "vectors", *files)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["ndcg_at_10"] == {"lexical": 1.0, "fused": 1.0, "final": 1.0}
        compared = run("compare", out, out, "--json")
        assert list(json.loads(compared.stdout)["differences"]) == ["lexical", "fused", "final"]


@pytest.mark.parametrize("mode", ["dense", "lexical"])
def test_figures_are_those_that_the_server_itself_measures(
    folder: Path, target: str, mode: Literal["dense", "lexical"]
) -> None:
    with (folder / "qrels" / "test.tsv").open("a") as more:
        more.write("q1\tcamel\t2\nq2\twhale\t1\n")
    with Client(target) as client:
        client.create_collection(f"only-{mode}", CollectionConfig(search_defaults=SearchDefaults(mode=mode)))
        client.ingest(f"only-{mode}", [Document(id=id, text=text) for id, text in CORPUS.items() if text]).finish()
        files = ("--qrels", folder / "qrels" / "test.tsv", "--queries", folder / "queries.jsonl")
        ran = run("--json", "--target", target, "--collection", f"only-{mode}", *files)
        grades = {"q1": {"owl": 1, "camel": 2}, "q2": {"camel": 1, "whale": 1}}
        (report,) = client.evaluate(f"only-{mode}", QUERIES, grades)
    ours = json.loads(ran.stdout)["ndcg_at_10"]
    assert ours == pytest.approx({ranking: quality.ndcg_at_10 for ranking, quality in report.rankings.items()})
    assert ours["fused"] == ours[mode]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "rerank.height=1"], "with a path of"),
        (["--qrels", "x"], "--qrels and --queries go together"),
        (["--qrels", "x", "--queries", "y", "--target", "z"], "either a folder DIR, or --qrels"),
    ],
)
def test_options_that_do_not_go_together_end_with_code_2(folder: Path, arguments: list[str], message: str) -> None:
    ran = run(folder, *arguments)
    assert ran.returncode == 2
    assert message in " ".join(ran.stderr.split())


def test_searches_that_a_busy_server_refuses_are_repeated(folder: Path) -> None:
    queries = {f"q{number}": f"{number} {QUERIES['q1']}" for number in range(60)}
    rows = [json.dumps({"_id": id, "text": text}) for id, text in queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(rows))
    (folder / "qrels" / "test.tsv").write_text("".join(f"{id}\towl\t1\n" for id in queries))
    busy = ("--max-concurrent-searches", 1, "--max-search-wait-seconds", 0.001)
    ran = run(folder, "--json", "--", "--embedder", "hashing", *busy)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["ndcg_at_10"]["lexical"] == 1.0


def test_a_setting_that_the_server_refuses_ends_it_before_the_ingest(folder: Path, target: str) -> None:
    kept = ("--target", target, "--keep", "--collection", "refused")
    ran = run(folder, *kept, "--sweep", "rerank.weight=0.5,5")
    assert ran.returncode == 1
    assert "rerank.weight: 5.0 is out of range" in ran.stderr
    with Client(target) as client:
        assert client.count("refused") == 0


def test_a_limit_of_the_server_that_is_too_low_ends_it_before_the_ingest(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    ran = run(folder, "--data-dir", data, "--", "--embedder", "hashing", "--max-hits", 50)
    assert ran.returncode == 1
    assert "limit: 100 is out of range, 1 to 50 are allowed" in ran.stderr
    with server(data_dir=data) as running, Client(running.target) as client:
        assert client.count("eval") == 0


def test_a_folder_that_cannot_be_written_ends_it_before_a_server_is_started(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = run(folder, "--output", tmp_path / "file" / "run", "--", "--embedder", "no-such-model")
    assert ran.returncode == 2
    assert "cannot be written" in " ".join(ran.stderr.split())


def test_queries_without_a_relevant_document_are_told(folder: Path) -> None:
    with (folder / "qrels" / "test.tsv").open("a") as more:
        more.write("q3\towl\t0\n")
    with (folder / "queries.jsonl").open("a") as more:
        more.write('{"_id": "q3", "text": "nothing knows"}\n')
    ran = run(folder, "--json", "--", "--embedder", "hashing")
    assert json.loads(ran.stdout)["ndcg_at_10"]["lexical"] == pytest.approx(2 / 3)
    assert "1 of 3 judged queries have no relevant document" in ran.stderr


def test_a_server_that_dies_is_said_to_have_ended() -> None:
    nothing = dict.fromkeys(("target", "data_dir", "api_key", "tls_ca"))
    options = {**nothing, "tls": False, "serve_arguments": ["--embedder", "hashing"]}
    with pytest.raises(ClickException, match="the server ended with code -9"), open_server(options) as running:
        assert running.pid is not None
        os.kill(running.pid, signal.SIGKILL)
        running.client.get_collection("eval")


def test_told_to_end_it_takes_its_server_and_its_folder_with_it(folder: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = [sys.executable, "-m", "shortlist_cli", "eval", str(folder), "--", "--embedder", "hashing"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)}) as child:
        until = time.monotonic() + 60
        while not list(temporary.glob("shortlist-eval-*/collections")) and time.monotonic() < until:
            time.sleep(0.02)
        child.terminate()
        child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert list(temporary.iterdir()) == []


def test_comparing_what_is_no_run_ends_with_code_2(tmp_path: Path) -> None:
    ran = run("compare", tmp_path, tmp_path)
    assert ran.returncode == 2
    assert "run.json is missing" in ran.stderr
