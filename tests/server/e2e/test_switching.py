"""Searches, writes, switches and roll-backs at the same time: nothing fails, and no answer mixes generations.

The two embedders hash into different dimensions, so each score tells which generation it comes from. The test computes
it again from the text of the hit.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shortlist import Client, CollectionConfig, Document, SearchResult
from shortlist_server.inference.base import QueryText
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.testing import server

WORDS = ["owl", "lynx", "camel", "whale", "krill", "snow", "desert", "forest", "river", "night", "hump", "tuft"]
DIMENSIONS = {"small": 48, "large": 80}
ENGINES = {name: HashingEmbedder(name, dimension) for name, dimension in DIMENSIONS.items()}
SEARCHERS = 8
SWITCHES = 64
ANSWERS_BETWEEN = 30
"""Searches that are answered between two switches."""

DOCUMENTS = 120


def text_of(number: int, version: int) -> str:
    return f"note{number} {WORDS[number % len(WORDS)]} {WORDS[version * 7 % len(WORDS)]} version{version}"


def cosine(embedder: str, query: str, text: str) -> float:
    engine = ENGINES[embedder]
    (asked,) = engine.embed_queries([QueryText(text=query)])
    (stored,) = engine.embed_passages([text], token_vectors=False)
    return float(np.dot(asked.vector, stored.vector))


class Traffic:
    """Searches of several threads and one stream of writes, each checked as it comes back."""

    def __init__(self, target: str, embedder_of: Callable[[int], str]) -> None:
        self.answers: Counter[int] = Counter()
        self.problems: list[str] = []
        self.acknowledged = (0, 0)
        self.streamed = 0
        self._target = target
        self._embedder_of = embedder_of
        self._stopping = threading.Event()

    def wait(self, more: int) -> None:
        """Waits for so many more answers."""
        until = self.answers.total() + more
        while self.answers.total() < until:
            assert not self.problems
            time.sleep(0.005)

    def stop(self) -> None:
        self._stopping.set()

    def search(self, seed: int) -> None:
        with Client(self._target) as client:
            for turn in itertools.count(seed):
                if self._stopping.is_set():
                    return
                try:
                    if turn % 3:
                        self._search_all(client, turn)
                    else:
                        self._search_written(client)
                except Exception as error:
                    self.problems.append(f"a search failed: {error!r}")
                    return

    def write(self) -> None:
        with Client(self._target) as client:
            for version in itertools.count(1):
                if self._stopping.is_set():
                    return
                numbers = [(version + i) % DOCUMENTS for i in range(4)]
                documents = [Document(id=f"n{number}", text=text_of(number, version)) for number in numbers]
                new = version % 8 == 0
                if new:
                    # Never replaced: a search leaves out a document that is replaced each time that it looks.
                    documents.append(Document(id=f"w{version}", text=f"written{version} zebra"))
                try:
                    done = client.ingest("docs", documents).finish()
                except Exception as error:
                    self.problems.append(f"a write failed: {error!r}")
                    return
                if done.durable != len(documents):
                    self.problems.append(f"a write was not durable: {done}")
                if new:
                    self.acknowledged = (version, done.searchable_sequence)

    def stream(self) -> None:
        """One stream of documents that outlasts all switches."""

        def documents() -> Iterator[Document]:
            while not self._stopping.is_set():
                self.streamed += 1
                yield Document(id=f"s{self.streamed}", text=text_of(self.streamed, self.streamed))
                time.sleep(0.03)

        with Client(self._target) as client:
            done = client.ingest("docs", documents()).finish()
        if done.durable != self.streamed:
            self.problems.append(f"{self.streamed} documents were streamed: {done}")

    def _search_all(self, client: Client, turn: int) -> None:
        query = f"{WORDS[turn % len(WORDS)]} {WORDS[turn // 3 % len(WORDS)]}"
        self._check(query, client.search("docs", query, limit=20, rerank=bool(turn % 2)))

    def _search_written(self, client: Client) -> None:
        version, sequence = self.acknowledged
        query = f"written{version} zebra"
        answer = client.search("docs", query, min_sequence=sequence)
        self._check(query, answer)
        if answer.report.sequence < sequence or f"w{version}" not in [hit.id for hit in answer]:
            self.problems.append(f"sequence {sequence} with w{version} was asked for: {answer}")

    def _check(self, query: str, answer: SearchResult) -> None:
        report = answer.report
        embedder = self._embedder_of(report.generation)
        self.answers[report.generation] += 1
        if report.embedder is None or report.embedder.name != embedder or report.degraded:
            self.problems.append(f"generation {report.generation} was searched as {report}")
        if not len(answer):
            self.problems.append(f"{query!r} found nothing")
        for hit in answer:
            assert hit.document is not None
            if hit.dense is None:
                # The words of a document that is written at this instant may be found before its vector.
                if hit.sequence <= report.sequence:
                    self.problems.append(f"{hit.id} lacks its vector in generation {report.generation}: {hit} {report}")
                continue
            right = cosine(embedder, query, hit.document.text)
            if abs(hit.dense.score - right) > 1e-3:
                self.problems.append(f"{hit.id} has {hit.dense.score} in generation {report.generation}, not {right}")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    embedders = tuple(f"{name}=hashing:{dimension}" for name, dimension in DIMENSIONS.items())
    # Small segments: switches meet flushes and merges of both generations.
    with server(tmp_path, embedders=embedders, segment_min_passages=64, max_search_wait_seconds=30.0) as running:
        yield running.target


@pytest.mark.timeout(240)
def test_thousands_of_searches_see_one_generation_each_while_it_is_switched_back_and_forth(target: str) -> None:
    with Client(target) as client, ThreadPoolExecutor(SEARCHERS + 2) as threads:
        client.create_collection("docs", CollectionConfig(embedder="small"))
        first = client.ingest(
            "docs",
            [
                *(Document(id=f"n{i}", text=text_of(i, 0)) for i in range(DOCUMENTS)),
                Document(id="w0", text="written0 zebra"),
            ],
        ).finish()
        embedders = {1: "small"}
        traffic = Traffic(target, lambda number: embedders[number])
        traffic.acknowledged = (0, first.searchable_sequence)
        running = [threads.submit(traffic.search, seed) for seed in range(SEARCHERS)]
        running += [threads.submit(traffic.write), threads.submit(traffic.stream)]
        try:
            for round in range(4):
                embedder = "large" if embedders[max(embedders)] == "small" else "small"
                # Known before any search can see it.
                embedders[max(embedders) + 1] = embedder
                built = client.reindex("docs", embedder=embedder)
                assert (built.number, built.complete) == (max(embedders), True)
                client.switch_generation("docs")
                for _ in range(SWITCHES // 4):
                    client.roll_back_generation("docs")
                    traffic.wait(ANSWERS_BETWEEN)
                numbers = {one.state: one.number for one in client.generations("docs")}
                assert numbers["serving"] == built.number, "an even number of roll-backs ends where they began"
                if round % 2:
                    client.drop_generation("docs", numbers["former"])
        finally:
            traffic.stop()
            for one in running:
                one.result()
        assert traffic.problems == []
        assert set(traffic.answers) == {1, 2, 3, 4, 5}, "each generation has answered"
        assert traffic.answers.total() >= SWITCHES * ANSWERS_BETWEEN
        # Every acknowledged write is in the generation that serves, and in the other one.
        version, _ = traffic.acknowledged
        assert version > 20
        for number in (one.number for one in client.generations("docs") if one.state in ("serving", "former")):
            for written in range(0, version + 1, 8):
                answer = client.search("docs", f"written{written} zebra", mode="dense", generation=number)
                assert f"w{written}" in [hit.id for hit in answer]
        assert client.count("docs") == DOCUMENTS + 1 + version // 8 + traffic.streamed
        assert traffic.streamed > 200
