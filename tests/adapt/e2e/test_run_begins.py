"""What ``shortlist adapt run`` refuses before it spends time."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from shortlist_adapt.folder import RunFolder
from shortlist_cli.group import cli


def begun(out: Path, target: str, *options: str) -> str:
    result = CliRunner().invoke(cli, ["adapt", "run", "library", "--out", str(out), "--target", target, *options])
    assert result.exit_code == 1
    assert not RunFolder(out).queries.exists()
    return result.output


def test_a_base_that_only_the_server_knows_is_asked_for(library: str, tmp_path: Path) -> None:
    assert "name its folder with --embedder-base" in begun(tmp_path / "run", library)


def test_a_base_that_is_not_there_is_named(library: str, tmp_path: Path) -> None:
    output = begun(tmp_path / "run", library, "--embedder-base", str(tmp_path / "none"))
    assert str(tmp_path / "none") in output.replace("\n", "")


def test_a_run_that_trains_nothing_is_refused(library: str, tmp_path: Path) -> None:
    output = begun(tmp_path / "run", library, "--set", "embedder.enabled=false", "--set", "reranker.enabled=false")
    assert "neither the embedder nor the reranker is to be trained" in output
