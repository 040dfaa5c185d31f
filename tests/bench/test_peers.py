"""The benchmark beside other engines: what it counts, and the table it prints."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PEERS = Path(__file__).parents[2] / "bench" / "peers"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_peers_{name}", PEERS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setitem(sys.modules, "engine", load("engine"))
    return load("worker")


def test_recall_counts_true_neighbours_and_knows_short_lists(worker: ModuleType) -> None:
    truth = np.array([[1, 2, 3], [4, -1, -1]])
    assert worker.recall([[3, 2, 9], [4]], truth) == 3 / 4
    assert worker.recall([[], []], truth) == 0


def test_percentiles_are_times_that_were_measured(worker: ModuleType) -> None:
    times = [number / 1000 for number in range(1, 101)]
    assert worker.percentiles(times, "x") == {"x_p50_ms": 51.0, "x_p99_ms": 100.0}
    assert worker.percentiles([], "x") == {}


def test_true_neighbours_are_those_of_an_exact_scan_over_the_rows_that_pass() -> None:
    workload = load("workload")
    vectors = np.eye(4, dtype=np.float32)
    query = np.array([[0.1, 0.9, 0.5, 0.0]], dtype=np.float32)
    assert workload.nearest(vectors, query, np.arange(4))[0, :3].tolist() == [1, 2, 0]
    assert workload.nearest(vectors, query, np.array([0, 2]))[0, :3].tolist() == [2, 0, -1]


def test_every_engine_describes_itself_and_is_listed() -> None:
    text = (PEERS / "run.py").read_text()
    engines = {path.stem for path in (PEERS / "engines").glob("*.py")}
    assert all(f'"{name}"' in text for name in engines)
    assert len(engines) == 7


def test_the_table_has_what_was_measured_and_says_what_was_not() -> None:
    report = {
        "command": "python bench/peers/run.py --quick",
        "date": "2026-01-02",
        "machine": {"processor": "A", "cores": 2, "python": "3.12"},
        "size": {"rows": 1000, "queries": 10},
        "dimension": 8,
        "text": {"name": "t", "embedder": "hashing", "documents": 3, "queries": 1},
        "results": [
            {
                "title": "One",
                "kind": "server",
                "settings": "x",
                "search_p50_ms": 1.234,
                "search_p99_ms": 5.0,
                "acked": 1500,
                "lost": 2,
                "filtered 1 %": {"recall": 0.5, "search_p50_ms": 2.0},
                "problems": {"text": "it broke"},
            },
            {"title": "Two", "skipped": "cannot be installed"},
        ],
    }
    lines = load("table").markdown(report).splitlines()
    assert "| search p50 / p99, ms | 1.23 / 5.00 |" in lines
    assert "| acknowledged rows lost after kill -9 | 2 of 1,500 |" in lines
    assert "| filter passing 1 %: recall, p50 | 0.500, 2.00 ms |" in lines
    assert "| restart to first answer, s | - |" in lines
    assert "Not measured: Two (cannot be installed)." in lines
    assert "One, text: it broke" in lines
