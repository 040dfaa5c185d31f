"""``shortlist adapt train`` and ``merge`` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shortlist_adapt.commands.group import adapt_group
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.plan import begin, read_plan
from shortlist_adapt.records import Split, TrainingPair, write_lines

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    begin(folder, "books", seed=3)
    pairs = [
        TrainingPair(
            query_id=f"{split}-{number}",
            query=f"query {number}",
            source="judged",
            split=split,
            positive_id="a",
            positive=f"answer {number}",
            negative_ids=("b",),
            negatives=("something else",),
        )
        for split in (Split.TRAIN, Split.DEVELOPMENT)
        for number in range(6)
    ]
    write_lines(folder.pairs, pairs)
    return folder


def call(*arguments: str) -> Result:
    return CliRunner().invoke(adapt_group, [*arguments])


def test_a_reranker_is_trained_and_merged_by_command(run: RunFolder, tiny_cross_encoder: Path) -> None:
    options = ["--only", "reranker", "--reranker-base", str(tiny_cross_encoder), "--reranker-epochs", "2"]
    options += ["--reranker-device", "cpu", "--reranker-threads", "1", "--reranker-patience", "0"]
    estimated = call("train", str(run.root), *options, "--estimate")
    assert estimated.exit_code == 0, estimated.output
    assert "train the reranker: about" in estimated.stderr
    assert not run.checkpoints.exists()
    trained = call("train", str(run.root), "--only", "reranker")
    assert trained.exit_code == 0, trained.output
    assert trained.stdout.splitlines()[0] == "reranker\tepochs\tdevelopment\t"
    assert [line.split("\t")[1] for line in trained.stdout.splitlines()[1:]] == ["1.00", "2.00"]
    assert "best" in trained.stdout
    assert read_plan(run).reranker.epochs == 2, "what options set stays in the plan"
    merged = call("merge", str(run.root), "--weights", "0.5")
    assert merged.exit_code == 0, merged.output
    names = [line.split("\t")[0] for line in merged.stdout.splitlines()]
    assert names[:5] == ["reranker", "base", "checkpoint-1", "checkpoint-2", "average-last-2"]
    assert merged.stdout.count("chosen") == 1
    assert list(json.loads(run.sweep.read_text())) == ["reranker"]
    assert (run.model / "reranker" / "model.safetensors").is_file()


def test_a_step_that_cannot_begin_says_why(run: RunFolder, tmp_path: Path) -> None:
    for arguments, message in (
        (("merge", str(run.root)), "train the embedder first"),
        (("train", str(run.root), "--only", "reranker"), "run 'shortlist adapt synthesise' first"),
        (("train", str(run.root), "--reranker-base", str(tmp_path / "gone")), "no exported collection"),
        (("train", str(tmp_path / "elsewhere")), "has no run"),
        (("train", str(run.root), "--reranker-epochs", "0"), "reranker.epochs"),
    ):
        result = call(*arguments)
        assert result.exit_code == 1, result.output
        assert message in result.stderr
        assert "Traceback" not in result.output
