"""The process is killed while generations are made, built, switched and dropped: each still has what it had to have.

Each life of a data folder is some rounds, each of which goes on with what the one before it left. ``CRASH_ROUNDS`` sets
the number of rounds in all.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shortlist_server.domain import GenerationState
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.store import EmbeddedStore

SCRIPT = Path(__file__).with_name("reindexing.py")
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "6"))
ROUNDS_OF_A_LIFE = 10

if TYPE_CHECKING:
    from . import churn, reindexing
else:
    sys.path.insert(0, str(SCRIPT.parent))
    churn = importlib.import_module("churn")
    reindexing = importlib.import_module("reindexing")
    sys.path.remove(str(SCRIPT.parent))

pytestmark = pytest.mark.crash

POINTS = [
    "generation:created",
    "generation:built",
    "switch:before",
    "switch:committed",
    "drop:marked",
    "drop:folders",
    "drop:rows",
    "drop:pages",
    "drop:tables",
    "publish:after",
    "commit:before",
    "commit:recorded",
]


def play(folder: Path, seed: int) -> list[tuple[str, int]]:
    """One process, and what it said. Two rounds of three end at a named point, the others at any moment."""
    chance = random.Random(seed)
    named = seed % 3 > 0
    point = POINTS[seed % len(POINTS)] if named else "-"
    nth = chance.randrange(1, 4)
    said, complaint = folder.parent / "said", folder.parent / "complaint"
    with said.open("wb") as output, complaint.open("wb") as errors:
        command = [sys.executable, str(SCRIPT), str(folder), str(seed), point, str(nth)]
        process = subprocess.Popen(command, stdout=output, stderr=errors)
    try:
        if not named:
            wanted = f"begin {chance.randrange(churn.OPERATIONS)}\n"
            while process.poll() is None and wanted not in said.read_text():
                time.sleep(0.005)
            time.sleep(chance.random() * 0.1)
            process.kill()
        process.wait(100)
    finally:
        process.kill()
    lines = said.read_text().splitlines()
    assert process.returncode in (0, -signal.SIGKILL), (lines[-1:], complaint.read_text())
    for error in complaint.read_text().splitlines():
        # Builds of segments that were told to kill themselves; any other error is one of the server.
        assert "code -9" in error, complaint.read_text()
    ended = "clean" if process.returncode == 0 else point
    print(f"round {seed}: ended at {ended}, {lines[-1] if lines else 'nothing'}")
    return [(word, int(number)) for word, number, *_ in (line.split() for line in lines)]


def texts_found(before: dict[str, str], found: dict[str, str], seed: int, begun: int, done: int) -> dict[str, str]:
    """The documents after some operation from the last acknowledged to the last begun one."""
    model = {id: churn.Version(text, float(int(text.split()[2]) % 11), np.empty(0)) for id, text in before.items()}
    states = [dict(model)] if done < 0 else []
    for number, operation in churn.operations(seed):
        if number > begun:
            break
        churn.apply(model, operation)
        if number >= done:
            states.append(dict(model))
    for state in states:
        if {id: version.text for id, version in state.items()} == found:
            return found
    if begun > done:
        # A deletion by filter that was killed may have deleted some of its documents.
        partial = states[0].keys() - states[-1].keys() if states else set()
        kept = {id: version.text for id, version in states[0].items() if id in found or id not in partial}
        if kept == found:
            return found
    raise AssertionError(f"after operation {done} was acknowledged, the store holds no state up to {begun}")


def check_generations(collection: EmbeddedCollection, said: list[tuple[str, int]]) -> None:
    """Which generation serves and which are gone follows from what was acknowledged and what was begun."""
    serving, dropped = {1}, set()
    for word, number in said:
        if word == "serving":
            serving = {number}
        elif word == "switching":
            serving.add(number)
        elif word == "dropped":
            dropped.add(number)
    assert collection.generation in serving
    for one in collection.generations():
        assert one.problem == ""
        assert one.state is GenerationState.DROPPING or one.number not in dropped


@pytest.mark.parametrize("life", range(-(-ROUNDS // ROUNDS_OF_A_LIFE)))
def test_every_generation_has_what_it_had_to_have_through_builds_switches_drops_and_kills(
    tmp_path: Path, life: int
) -> None:
    texts: dict[str, str] = {}
    first = life * ROUNDS_OF_A_LIFE
    for seed in range(first, min(first + ROUNDS_OF_A_LIFE, ROUNDS)):
        said = play(tmp_path / "data", seed)
        begun = max((number for word, number in said if word == "begin"), default=-1)
        done = max((number for word, number in said if word == "done"), default=-2)
        store = EmbeddedStore(churn.configuration(tmp_path / "data"), maintain=False)
        try:
            if "c" not in store.names():
                assert done < -1, "an acknowledged collection is gone"
                continue
            collection = store.open("c")
            assert collection.damage == ()
            texts = texts_found(texts, reindexing.texts(collection), seed, begun, done)
            check_generations(collection, said)
            assert reindexing.problems(collection, texts) == []
            assert store.verify("c").problems == []
            states = [one.state for one in collection.generations()]
            assert (GenerationState.BUILDING in states) <= (store.reindexing() == ["c"])
        finally:
            store.close()
