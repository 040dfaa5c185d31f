"""``shortlist demo`` as a user runs it, with the embedder that needs no weights."""

import subprocess
import sys
from pathlib import Path

from shortlist_cli.demo.demo import QUESTIONS


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "shortlist_cli",
        "demo",
        "--data-dir",
        str(folder),
        "--embedder",
        "hashing",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_it_answers_five_questions_and_sends_nothing_the_second_time(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    assert len(QUESTIONS) == 5
    assert all(f"\n{question}\n" in first.stdout for question in QUESTIONS)
    assert first.stdout.count("rank\tstage one\tdense\tlexical\tmoved\tscore\tdocument\tsummary\n") == 5
    assert "\x1b" not in first.stdout
    assert " sent in " in first.stderr
    assert first.stderr.startswith("starting a server: loading embedder hashing\nstarting a server: models are loaded ")

    second = run(tmp_path, "--limit", "1", "split a string with shell-like syntax")
    assert second.returncode == 0, second.stderr
    assert "all in place" in second.stderr
    (row,) = (line.split("\t") for line in second.stdout.splitlines() if line.startswith("1\t"))
    assert row[6].startswith("shlex.split")
