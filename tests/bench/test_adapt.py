"""The benchmark of adaptation: which part of the data it takes, and what its guarded set is made of."""

from __future__ import annotations

import asyncio
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from shortlist_cli.demo.corpus import stdlib_corpus
from shortlist_cli.evaluation.beir import load_dataset

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("adapt")


def test_a_part_has_the_documents_that_its_queries_need(bench: ModuleType, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{n}", "title": "t", "text": "x"} for n in range(9)]
    (data / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "queries.jsonl").write_text("".join(json.dumps({"_id": f"q{n}", "text": "?"}) + "\n" for n in range(4)))
    (data / "qrels" / "train.tsv").write_text("q0\td8\t1\nq1\td7\t1\n")
    (data / "qrels" / "test.tsv").write_text("q2\td6\t1\nq3\td5\t1\n")
    size = bench.Size(documents=3, train=1, test=1, guarded=1, training=(), options=())
    part = bench.part(data, tmp_path / "part", size)
    train, test = (load_dataset(part, split) for split in ("train", "test"))
    assert (list(train.queries), list(test.queries)) == (["q0"], ["q2"])
    assert [document.id for document in test.documents()] == ["d6", "d8", "d0"]
    assert train.judged_but_missing == test.judged_but_missing == 0
    assert bench.part(data, tmp_path / "whole", bench.FULL) == data


def test_a_guarded_query_is_no_part_of_its_document(bench: ModuleType) -> None:
    entries = stdlib_corpus(Path(asyncio.__file__).parent)
    corpus, judged = bench.docstrings(entries, 20)
    texts = {document.id: document.text for document in corpus}
    assert len(judged.queries) == 20
    for name, query in judged.queries.items():
        assert query not in texts[name]
        assert judged.qrels[name] == {name: 1}
