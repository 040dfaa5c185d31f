"""``shortlist tune-search`` as a user runs it: against a collection of a running server, with qrels from files."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import Client, CollectionConfig, Fusion, Rerank, RerankStage, SearchDefaults
from shortlist_cli.evaluation.choices import Grid, StageValues
from shortlist_cli.evaluation.tuning import observe, rankings

WORDS = ("owl", "whale", "camel", "lynx", "heron", "otter", "gecko", "bison", "river", "stone", "cloud", "grass")
QUERIES = 40


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rare word says which document answers a query; all its other words are those of another document."""
    folder = tmp_path_factory.mktemp("judged")
    dice = random.Random(5)
    texts = [" ".join(dice.choices(WORDS, k=12)) for _ in range(QUERIES)]
    documents = [{"_id": f"d{n}", "text": f"{text} place{n}"} for n, text in enumerate(texts)]
    splits = {"train": "q", "test": "t"}
    queries = [
        {"_id": f"{name}{n}", "text": f"{texts[n - other]} place{n}"}
        for other, name in enumerate(splits.values(), 1)
        for n in range(QUERIES)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels").mkdir()
    for split, name in splits.items():
        lines = "".join(f"{name}{n}\td{n}\t1\n" for n in range(QUERIES))
        (folder / "qrels" / f"{split}.tsv").write_text(lines)
    return folder


@pytest.fixture
def client(target: str, judged: Path) -> Iterator[Client]:
    """A client of a server with the collection "tuned", whose defaults ask only the embeddings."""
    with Client(target) as connected:
        if "tuned" not in {collection.name for collection in connected.list_collections()}:
            connected.create_collection("tuned")
            rows = [json.loads(line) for line in (judged / "corpus.jsonl").read_text().splitlines()]
            connected.ingest("tuned", [{"id": row["_id"], "text": row["text"]} for row in rows]).finish()
        bad = SearchDefaults(mode=None, fusion=Fusion(dense_weight=1.0), rerank=Rerank(weight=1.0, depth=40))
        connected.update_collection("tuned", bad)
        yield connected


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shortlist_cli", "tune-search", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


SMALL = ("--sweep", "fusion.dense_weight=0,0.5,1", "--sweep", "rerank.weight=0,0.5", "--sweep", "candidates=20,40")


def test_a_significant_gain_becomes_the_collections_defaults(client: Client, target: str, judged: Path) -> None:
    ran = run(judged, "--target", target, "--collection", "tuned", "--test-split", "test", *SMALL, "--apply", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["applied"] and found["objection"] is None
    assert found["gain"]["mean"] > 0.1 and found["gain"]["significant"]
    assert found["served"] == pytest.approx(found["fitted"], abs=0.01)
    assert found["test"]["chosen"] > found["test"]["present"]
    defaults = client.get_collection("tuned").config.search_defaults
    assert defaults.fusion.dense_weight == found["choice"]["dense_weight"] < 1
    assert defaults.candidates.dense == found["choice"]["candidates"]


def test_what_is_not_significant_is_refused_and_changes_nothing(client: Client, target: str, judged: Path) -> None:
    before = client.get_collection("tuned").config.search_defaults
    same = ("--sweep", "fusion.dense_weight=1", "--sweep", "rerank.weight=1", "--sweep", "rerank.depth=40")
    ran = run(judged, "--target", target, "--collection", "tuned", *same, "--sweep", "candidates=100", "--apply")
    assert ran.returncode == 4
    assert "not applied:" in ran.stderr
    assert client.get_collection("tuned").config.search_defaults == before


def test_without_apply_nothing_is_written(client: Client, target: str, judged: Path) -> None:
    before = client.get_collection("tuned").config.search_defaults
    files = ("--qrels", judged / "qrels" / "train.tsv", "--queries", judged / "queries.jsonl")
    ran = run("--target", target, "--collection", "tuned", *files, *SMALL)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("setting\tvalue\n")
    assert "--apply makes these" in ran.stderr
    assert client.get_collection("tuned").config.search_defaults == before


def test_apply_needs_a_collection_that_stays(judged: Path) -> None:
    ran = run(judged, "--apply")
    assert ran.returncode == 2
    assert "--apply needs a collection that stays" in " ".join(ran.stderr.split())


def test_too_few_queries_to_tune_on_are_refused(judged: Path, tmp_path: Path) -> None:
    (tmp_path / "few.tsv").write_text("q1\td1\t1\n")
    files = ("--qrels", tmp_path / "few.tsv", "--queries", judged / "queries.jsonl")
    ran = run("--target", "127.0.0.1:1", *files)
    assert ran.returncode == 2
    assert "tuning needs at least 10" in " ".join(ran.stderr.split())


def test_what_was_tuned_on_cannot_confirm_it(judged: Path) -> None:
    ran = run(judged, "--target", "127.0.0.1:1", "--test-split", "train")
    assert ran.returncode == 2
    assert "40 of its 40 queries are also tuned on" in " ".join(ran.stderr.split())


def test_a_collection_that_presets_one_index_is_tuned_for_both(client: Client, target: str, judged: Path) -> None:
    client.update_collection("tuned", SearchDefaults(mode="dense", rerank=Rerank(weight=1.0)))
    ran = run(judged, "--target", target, "--collection", "tuned", *SMALL, "--apply", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["served"] == pytest.approx(found["fitted"], abs=0.01)
    assert client.get_collection("tuned").config.search_defaults.mode == "hybrid"


def test_stages_that_a_collection_does_not_have_are_tuned_and_applied(
    client: Client, target: str, judged: Path
) -> None:
    stages = ("--stage", "late-interaction,depth=20", "--stage", "late-interaction,weight=0.5")
    swept = ("fusion.dense_weight=0,0.5", "candidates=40", "rerank.stages[0].weight=0.2", "rerank.depth=5,10")
    values = [part for sweep in swept for part in ("--sweep", sweep)]
    ran = run(judged, "--target", target, "--collection", "tuned", *stages, *values, "--apply", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["served"] == pytest.approx(found["fitted"], abs=0.01)
    chosen = [(stage["model"], stage["weight"], stage["depth"]) for stage in found["choice"]["stages"]]
    assert [one[:2] for one in chosen] == [("late-interaction", 0.2), ("late-interaction", 0.5)]
    applied = client.get_collection("tuned").config.search_defaults.rerank
    assert [(stage.model, stage.weight, stage.depth) for stage in applied.stages] == chosen
    of_both = ("--sweep", "rerank.stages[0].weight=0,0.2", "--sweep", "rerank.stages[1].weight=0.5")
    again = run(judged, "--target", target, "--collection", "tuned", *of_both, "--sweep", "candidates=40")
    assert again.returncode == 0, again.stderr


def test_a_collection_without_an_embedder_has_nothing_to_tune(client: Client, target: str, judged: Path) -> None:
    client.create_collection("vectors", CollectionConfig(embedder="none", dimension=2))
    ran = run(judged, "--target", target, "--collection", "vectors")
    assert ran.returncode == 1
    assert "'vectors' has no embedder: there is nothing to fuse" in ran.stderr


def test_what_is_worked_out_is_what_the_server_answers(client: Client, judged: Path) -> None:
    queries = {"a": "owl whale place8", "b": "stone in the cloud", "c": "bison gecko bison"}
    one = StageValues(weights=(0.0, 0.5, 1.0), depths=(5, 30))
    grid = Grid(dense_weights=(0.0, 0.4, 1.0), stages=(one,), candidates=(10, 40))
    late = RerankStage(model="late-interaction")
    several = Grid(
        dense_weights=(0.4,),
        stages=(
            StageValues(stage=late, weights=(0.0, 0.5), depths=(20,)),
            StageValues(stage=late, weights=(0.0, 0.7), depths=(5, 10)),
        ),
        candidates=(40,),
    )
    for values in (grid, several):
        check(client, queries, values)


def check(client: Client, queries: dict[str, str], grid: Grid) -> None:
    observations = observe(client, "tuned", queries, grid, lambda: None)
    choices = grid.choices()
    for query, text in queries.items():
        for choice, expected in zip(choices, rankings(observations[query], choices), strict=True):
            served = [hit.id for hit in client.search("tuned", text, **choice.search())]
            assert served == list(expected), (text, choice)
