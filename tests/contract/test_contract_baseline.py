"""What breaks callers of the last release does not pass ``make lint``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_NETWORK = {f"{scheme}_PROXY": "http://127.0.0.1:1" for scheme in ("HTTP", "HTTPS", "http", "https")}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the protos and of the program that compares them."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(sources: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = sources / "scripts" / "contract.py"
    environment = {"HOME": str(sources), "PATH": "/usr/bin:/bin", **NO_NETWORK}
    command = [sys.executable, str(program), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def change(sources: Path, file: str, pattern: str, replacement: str) -> None:
    path = sources / "proto" / "shortlist" / file
    text, count = re.subn(pattern, replacement, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def test_the_contract_breaks_nothing_and_may_grow(sources: Path) -> None:
    change(sources, "v1/search.proto", r"(message Query \{)", r"\1\n  // New.\n  string addition = 100;")
    assert run(sources).returncode == 0


def test_workers_are_of_the_servers_release_and_their_protocol_may_change(sources: Path) -> None:
    change(sources, "worker/v1/worker_service.proto", r"\n +rpc Cut.*", "")
    assert run(sources).returncode == 0


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "complaint"),
    [
        ("v1/search.proto", r"\n +string text = 1;", "", 'field "1" with name "text"'),
        ("v1/search.proto", r"string text = 1;", "bytes text = 1;", '"text" on message "Query" changed type'),
        ("v1/search_service.proto", r"\n +rpc BatchSearch.*", "", 'RPC "BatchSearch"'),
        ("v1/error.proto", r"\n +ERROR_REASON_OVERLOADED = 11;", "", 'enum value "11"'),
    ],
    ids=["a field removed", "a type changed", "a method removed", "a reason removed"],
)
def test_what_breaks_callers_is_refused_until_the_baseline_is_replaced(
    sources: Path, file: str, pattern: str, replacement: str, complaint: str
) -> None:
    change(sources, file, pattern, replacement)
    refused = run(sources)
    assert refused.returncode == 1
    assert complaint in refused.stderr
    assert "make baseline" in refused.stderr
    assert run(sources, "--write").returncode == 0
    assert run(sources).returncode == 0


def test_lint_compares_and_the_verb_replaces() -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = dict(re.findall(r"^([a-z]+):.*\n\t(.+)$", makefile, re.MULTILINE))
    assert "scripts/contract.py &&" in rules["lint"]
    assert rules["baseline"].endswith("scripts/contract.py --write")
