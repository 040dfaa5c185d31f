"""Flushes and merges run while documents are replaced and deleted, and the process is killed: nothing is amiss.

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

from shortlist_server.storage.store import EmbeddedStore

CHURN = Path(__file__).with_name("churn.py")
ROUNDS = int(os.environ.get("CRASH_ROUNDS", "3"))
ROUNDS_OF_A_LIFE = 5

if TYPE_CHECKING:
    from . import churn
    from .churn import Model
else:
    sys.path.insert(0, str(CHURN.parent))
    churn = importlib.import_module("churn")
    sys.path.remove(str(CHURN.parent))

pytestmark = pytest.mark.crash

POINTS = ["publish:before", "publish:after", "publish:removed", "commit:before", "commit:after", "delete:committed"]


def play(folder: Path, seed: int) -> tuple[str, int, int]:
    """One process; what it said of its builds, the last operation it began and the last that was acknowledged."""
    chance = random.Random(seed)
    named = chance.random() < 0.5
    point, nth = (chance.choice(POINTS), chance.randrange(1, 8)) if named else ("-", 1)
    said, complaint = folder.parent / "said", folder.parent / "complaint"
    with said.open("wb") as output, complaint.open("wb") as errors:
        command = [sys.executable, str(CHURN), str(folder), str(seed), point, str(nth)]
        process = subprocess.Popen(command, stdout=output, stderr=errors)
    try:
        if not named:
            wanted = f"begin {chance.randrange(churn.OPERATIONS)}\n"
            while process.poll() is None and wanted not in said.read_text():
                time.sleep(0.005)
            time.sleep(chance.random() * 0.1)  # A random moment.
            process.kill()
        process.wait(100)
    finally:
        process.kill()
    lines = said.read_text().splitlines()
    assert process.returncode in (0, -signal.SIGKILL), (lines[-1:], complaint.read_text())
    for error in complaint.read_text().splitlines():
        # Builds that were told to kill themselves; any other failure is one of the server.
        assert "code -9" in error, complaint.read_text()
    numbers = [line.split() for line in lines]
    begun = max((int(line[1]) for line in numbers if line[0] == "begin"), default=-1)
    done = max((int(line[1]) for line in numbers if line[0] == "done"), default=-2)
    return next((line for line in reversed(lines) if line.startswith("built")), "built 0 0"), begun, done


def state_found(before: Model, found: Model, seed: int, begun: int, done: int) -> Model:
    """The state after some operation from the last acknowledged to the last begun one that was found."""
    model = dict(before)
    states = [dict(model)] if done < 0 else []
    for number, operation in churn.operations(seed):
        if number > begun:
            break
        churn.apply(model, operation)
        if number >= done:
            states.append(dict(model))
    for state in states:
        if state.keys() == found.keys() and all(
            version.text == found[id].text and np.array_equal(version.vectors, found[id].vectors)
            for id, version in state.items()
        ):
            return state
    raise AssertionError(f"after operation {done} was acknowledged, the store holds no state up to {begun}")


@pytest.mark.parametrize("life", range(-(-ROUNDS // ROUNDS_OF_A_LIFE)))
def test_the_index_agrees_with_the_documents_through_replacements_builds_and_kills(tmp_path: Path, life: int) -> None:
    model: Model = {}
    first = life * ROUNDS_OF_A_LIFE
    for seed in range(first, min(first + ROUNDS_OF_A_LIFE, ROUNDS)):
        built, begun, done = play(tmp_path / "data", seed)
        print(f"round {seed}: {built}, {done + 1} operations")
        store = EmbeddedStore(churn.configuration(tmp_path / "data"), maintain=False)
        try:
            if "c" not in store.names():
                assert done < -1, "an acknowledged collection is gone"
                continue
            collection = store.open("c")
            assert collection.damage == ()
            model = state_found(model, churn.stored(collection), seed, begun, done)
            assert churn.compare(collection, model) == []
        finally:
            store.close()
