"""``shortlist adapt synthesise`` and ``mine`` as processes of their own: what they print, and what a SIGKILL leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from shortlist_adapt.folder import RunFolder
from shortlist_adapt.plan import read_plan
from shortlist_cli.group import cli

COLLECTION = "library"


def words(out: Path, judged: Path, target: str) -> list[str]:
    options = ["--judged", str(judged), "--documents", "20", "--per-document", "2"]
    return ["adapt", "synthesise", COLLECTION, "--out", str(out), *options, "--target", target]


def kept_bytes(folder: RunFolder) -> int:
    """Size of the answers that the run has kept so far."""
    return sum(path.stat().st_size for path in folder.cache.glob("searches/*"))


def test_the_command_begins_a_run_and_prints_what_it_made(library: str, judged: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    result = CliRunner().invoke(cli, words(folder.root, judged, library))
    assert result.exit_code == 0, result.output
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows[0] == ["source", "train", "development", "held-out", "all"]
    assert [row[0] for row in rows[1:]] == ["judged", "title", "first-sentence", "cloze"]
    assert all(int(row[4]) == sum(map(int, row[1:4])) for row in rows[1:])
    assert "synthesise: about" in result.stderr
    plan = read_plan(folder)
    assert (plan.synthesis.documents, plan.synthesis.judged) == (20, (judged,))
    result = CliRunner().invoke(cli, ["adapt", "mine", str(folder.root), "--negatives", "3", "--target", library])
    assert result.exit_code == 0, result.output
    assert "pairs from" in result.stderr
    assert read_plan(folder).mining.negatives == 3


def test_an_estimate_makes_nothing_but_the_export(library: str, judged: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    for command in ("synthesise", "run"):
        line = [word.replace("synthesise", command) for word in words(folder.root, judged, library)]
        result = CliRunner().invoke(cli, [*line, "--estimate"])
        assert result.exit_code == 0, result.output
        assert "searches" in result.stderr
        assert not folder.queries.exists()
    assert folder.corpus.exists()


def test_a_process_that_is_killed_goes_on_to_the_same_bytes(library: str, judged: Path, tmp_path: Path) -> None:
    undisturbed, killed = RunFolder(tmp_path / "undisturbed"), RunFolder(tmp_path / "killed")
    result = CliRunner().invoke(cli, words(undisturbed.root, judged, library))
    assert result.exit_code == 0, result.output
    process = subprocess.Popen(
        [sys.executable, "-m", "shortlist_cli", *words(killed.root, judged, library)], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not kept_bytes(killed):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    result = CliRunner().invoke(cli, words(killed.root, judged, library))
    assert result.exit_code == 0, result.output
    assert killed.queries.read_bytes() == undisturbed.queries.read_bytes()
    assert killed.corpus.read_bytes() == undisturbed.corpus.read_bytes()
