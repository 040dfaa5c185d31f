"""The benchmark of a reindex: which answers it calls wrong, which part it takes, and what its writer leaves."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from shortlist import Client, CollectionConfig, Document
from shortlist_cli.evaluation.beir import Judged
from shortlist_server.testing import server

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("reindex")


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("callers")


def test_a_part_has_the_documents_that_its_queries_are_judged_on(bench: ModuleType) -> None:
    corpus = [Document(id=f"d{number}") for number in range(50)]
    judged = Judged(
        name="test",
        queries={"q1": "one", "q2": "two", "q3": "three"},
        qrels={"q1": {"d40": 1}, "q2": {"d41": 1, "d3": 1}, "q3": {"d49": 1}},
    )
    size = bench.Size(documents=5, queries=2, seconds=1.0, fresh=1, alone=1, rounds=1)
    part, kept = bench.judged_part(corpus, judged, size)
    assert [document.id for document in part] == ["d3", "d40", "d41", "d0", "d1"]
    assert list(kept.queries) == list(kept.qrels) == ["q1", "q2"]


def test_an_answer_is_wrong_by_its_generation_or_its_model_but_not_across_a_switch(bench: ModuleType) -> None:
    def answer(begin: float, end: float, generation: int, embedder: str, *ids: str) -> object:
        return bench.Answer(begin, end, generation, embedder, False, ids)

    life = bench.Life(expected=[(0.0, 10.0, {1}), (11.0, float("inf"), {2})])
    models = {1: "old", 2: "new"}
    life.answers = [answer(1, 2, 1, "old"), answer(9, 12, 1, "old"), answer(9, 12, 2, "new"), answer(12, 13, 2, "new")]
    assert bench.wrong_answers(life, models) == 0
    life.answers = [answer(1, 2, 2, "new"), answer(12, 13, 1, "old"), answer(12, 13, 2, "old"), answer(9, 12, 3, "new")]
    assert bench.wrong_answers(life, models) == 4
    life.deleted = (4.0, 8.0)
    life.answers = [answer(begin, begin + 1, 1, "old", "d1", "extra-7") for begin in (3, 5, 7.5)]
    assert bench.wrong_answers(life, models) == 1


def test_a_writer_leaves_the_texts_as_they_were(callers: ModuleType) -> None:
    corpus = [Document(id=f"d{number}", text=f"text {number}") for number in range(6)]
    with server() as running, Client(running.target) as client:
        client.create_collection("live", CollectionConfig(reranker="none"))
        client.ingest("live", corpus).finish()
        with (
            callers.Callers(running.target, "live", ["text"], callers=2, per_second=40.0) as searching,
            callers.Writer(running.target, "live", corpus[:3], per_second=200.0) as writer,
        ):
            before = client.get_collection("live").sequence
            while client.get_collection("live").sequence < before + 8:
                pass
        assert writer.failures.total() == searching.failures.total() == 0
        assert writer.acks["durable"] >= 8
        assert {document.id: document.text for document in client.list("live")} == {
            document.id: document.text for document in corpus
        }
    assert all(answer.ids and answer.end >= answer.begin for answer in searching.answers)
