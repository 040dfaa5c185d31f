"""A store with more collections than may be open is killed while they come and go; nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shortlist_server.storage.store import EmbeddedStore

from .load_many import COLLECTIONS, configuration, name_of

LOAD = Path(__file__).with_name("load_many.py")
ROUNDS = max(1, int(os.environ.get("CRASH_ROUNDS", "20")) // 4)

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("round", range(ROUNDS))
def test_what_was_acknowledged_is_there_in_every_collection(tmp_path: Path, round: int) -> None:
    chance = random.Random(round)
    acknowledged: dict[int, set[str]] = {number: set() for number in range(COLLECTIONS)}
    process = subprocess.Popen(
        [sys.executable, str(LOAD), str(tmp_path / "data"), str(round)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(chance.randrange(20, 150)):
        number, id = process.stdout.readline().split()
        acknowledged[int(number)].add(id)
    os.kill(process.pid, signal.SIGKILL)
    for line in process.stdout.read().splitlines(keepends=True):
        if line.endswith("\n"):
            number, id = line.split()
            acknowledged[int(number)].add(id)
    process.stdout.close()
    assert process.wait(60) == -signal.SIGKILL
    store = EmbeddedStore(configuration(tmp_path / "data"))
    try:
        for place, ids in acknowledged.items():
            if ids:
                collection = store.find(name_of(place))
                assert collection.info().document_count >= len(ids)
                assert set(collection.keys(sorted(ids))) == ids
                assert store.verify(name_of(place)).problems == []
    finally:
        store.close()
