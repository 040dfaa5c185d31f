"""Every example runs, as its own process, and says what it promises; and again over what the first run left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"

LINES = {
    "quickstart.py": ["3 documents acknowledged", "1. Twenty thousand leagues (1870)"],
    "async_client.py": ["mars: ", "red planet: Mars", "planet with rings: Saturn"],
    "resumable_ingest.py": ["empty failed: ", "5000 documents are stored"],
    "filters.py": [
        "thirties: M, Modern times (2)",
        "silent or by Lang: Metropolis, M, Modern times (3)",
        "not silent: M, Casablanca (2)",
        "search among 1: Metropolis",
        "deleted 1",
    ],
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == LINES.keys()


@pytest.mark.parametrize("name", LINES)
def test_an_example_runs_twice(name: str, target: str, tmp_path: Path) -> None:
    for _ in range(2):
        command = [sys.executable, str(EXAMPLES / name), target]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        for line in LINES[name]:
            assert line in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_examples_pass_the_type_checker_strictly() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, sorted(EXAMPLES.glob("*.py")))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=EXAMPLES.parent)
    assert run.returncode == 0, run.stdout


def test_an_array_of_numpys_passes_the_type_checker_as_a_vector(tmp_path: Path) -> None:
    program = tmp_path / "vectors.py"
    program.write_text(
        "import numpy as np\n"
        "from shortlist import Client, Document, SearchQuery\n"
        "vector = np.ones(3, dtype=np.float32)\n"
        "Document(id='a', vector=vector)\n"
        "SearchQuery(collection='books', vector=vector)\n"
        "with Client() as client:\n"
        "    client.search('books', vector=vector)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", str(program)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=EXAMPLES.parent)
    assert run.returncode == 0, run.stdout
