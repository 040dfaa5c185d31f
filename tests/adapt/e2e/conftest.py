"""A served collection of small documents, judged queries for it, and a scripted LLM."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import Client, Document
from shortlist_server.testing import server

from .running_llm import ScriptedLlm, running_llm

COLLECTION = "library"

HERE = Path(__file__).parent

_WORDS = [
    f"{first}{second}"
    for first in ("bal", "cor", "dun", "fel", "gar", "hol", "jen", "kil", "lom", "mar", "nep", "pol", "rud", "sal")
    for second in ("ad", "em", "in", "or", "us", "eth", "isk", "ox", "ay", "umb")
]
"""Made-up words, so that no two documents are alike by chance."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of this folder, before tests are chosen by their marks."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("training")


def documents(count: int = 24) -> list[Document]:
    """Documents of a title and five sentences, each with words of its own; some share words with the next one."""
    made = []
    for number in range(count):
        words = random.Random(number).sample(_WORDS, 40) + random.Random(number // 2).sample(_WORDS, 8)
        sentences = [
            f"The {words[start]} of every {words[start + 1]} brings {' '.join(words[start + 2 : start + 8])}."
            for start in range(0, 40, 8)
        ]
        made.append(
            Document(id=f"d{number}", title=f"About {words[3]} and {words[40]} {number}", text=" ".join(sentences))
        )
    return made


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the collection."""
    with server(data_dir=tmp_path_factory.mktemp("data")) as running:
        with Client(running.target) as client:
            client.create_collection(COLLECTION)
            summary = client.ingest(COLLECTION, documents()).finish()
            assert summary.durable == 24
        yield running.target


@pytest.fixture(scope="session")
def client(library: str) -> Iterator[Client]:
    with Client(library) as connected:
        yield connected


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixteen judged queries; each asks for one document with two words of its text and one of its title.

    The document beside it has the same word in its title, and is judged 0.
    """
    folder = tmp_path_factory.mktemp("judged")
    (folder / "qrels").mkdir(parents=True)
    rows, qrels = [], []
    for number, document in enumerate(documents(16)):
        words, shared = document.text.split(), document.title.split()[3]
        rows.append(json.dumps({"_id": f"j{number}", "text": f"which {words[6]} {words[20]} {shared}"}))
        qrels.append(f"j{number}\td{number}\t1")
        qrels.append(f"j{number}\td{number ^ 1}\t0")
    (folder / "queries.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "qrels" / "train.tsv").write_text("\n".join(qrels) + "\n")
    return folder


@pytest.fixture(scope="session")
def llm_process() -> Iterator[ScriptedLlm]:
    with running_llm() as running:
        yield running


@pytest.fixture
def llm(llm_process: ScriptedLlm) -> ScriptedLlm:
    """The scripted LLM, its log empty."""
    llm_process.reset()
    return llm_process
