"""``shortlist models`` against a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shortlist_cli.group import cli
from shortlist_server.testing import server

StaticModel = Callable[..., Path]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with server(tmp_path / "data") as running:

        def call(*arguments: str) -> Result:
            return CliRunner().invoke(cli, ["models", *arguments, "--target", running.target])

        yield call


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_is_published_shown_and_deleted(run: Run, static_model: StaticModel) -> None:
    folder = static_model()
    published = answer(run("publish", "words@1", str(folder), "--json"))
    assert (published["model"], published["kind"], published["state"]) == ("words@1", "embedder", "loaded")
    again = run("publish", "words@1", str(folder))
    assert again.stdout == f"words@1: embedder, computes in float32; revision {published['revision']}\n"
    (listed,) = answer(run("list", "--json"))
    assert listed == {**published, "files": [], "card": ""}
    table = run("list").stdout.splitlines()
    assert table[0].split("\t")[0] == "model"
    assert table[1].split("\t")[:4] == ["words@1", "embedder", "loaded", published["revision"][:12]]
    shown = run("show", "words@1").stdout
    assert "file 0_StaticEmbedding/model.safetensors" in shown
    assert shown.endswith("\n# Words, seed 1\n")
    assert answer(run("show", "words@1", "--json"))["card"] == "# Words, seed 1\n"
    assert answer(run("load", "words@1", "--json"))["state"] == "loaded"
    assert run("delete", "words@1").stdout == "deleted words@1\n"
    assert answer(run("list", "--json")) == []


def test_a_fault_is_one_line(run: Run, static_model: StaticModel, tmp_path: Path) -> None:
    folder = static_model()
    (folder / "0_StaticEmbedding" / "tokenizer.json").write_text("{")
    refused = run("publish", "words@1", str(folder))
    assert refused.exit_code == 1
    assert "0_StaticEmbedding/tokenizer.json" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    for command in ("show", "load", "delete"):
        result = run(command, "words@9")
        assert (result.exit_code, "words@9" in result.stderr) == (1, True), result.output
    (tmp_path / "empty").mkdir()
    assert "neither config.json nor modules.json" in run("publish", "words@1", str(tmp_path / "empty")).stderr
