"""Collections share threads, and none of them can hold up the others."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shortlist_server.storage import store as store_module
from shortlist_server.storage.clock import Clock
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.rows import writer as writer_module
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config, opened

GATED_BUILDER = """
import pathlib, time
while not pathlib.Path({gate!r}).exists():
    time.sleep(0.01)
from shortlist_server.storage.compaction.builder import main
main()
"""


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    made.close()


def test_alarms_go_off_in_the_order_of_their_times_and_not_when_cancelled(clock: Clock) -> None:
    heard: list[str] = []
    done = threading.Event()
    clock.after(0.1, done.set)
    clock.after(0.05, lambda: heard.append("second"))
    clock.after(0.07, lambda: heard.append("cancelled")).cancel()
    clock.after(0.0, lambda: heard.append("first"))
    clock.after(0.02, lambda: 1 / 0)
    assert done.wait(30)
    assert heard == ["first", "second"]
    clock.after(0.0, lambda: heard.append("late"))
    clock.close()
    clock.close()
    assert heard[2:] in ([], ["late"])


def test_a_collection_has_one_thread_at_a_time_and_takes_turns_in_order(collection: EmbeddedCollection) -> None:
    running, seen, problems = [], [], []

    def step(number: int) -> Callable[[WriteTransaction], None]:
        def apply(_: WriteTransaction) -> None:
            running.append(number)
            if len(running) > 1:
                problems.append(number)
            time.sleep(0.001)
            seen.append(number)
            running.remove(number)

        return apply

    for future in [collection.submit(Task(step(n), lambda _: None, weight=4096)) for n in range(50)]:
        future.result(30)
    assert seen == list(range(50))
    assert problems == []


@pytest.fixture
def gated(
    open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[EmbeddedStore, Path]]:
    """A store with one writing thread, whose builds wait until ``gate`` is there, and commits that wait for them."""
    monkeypatch.setattr(store_module, "WRITING_THREADS", 1)
    monkeypatch.setattr(writer_module, "_ROOM_SECONDS", 60.0)
    builder = tmp_path / "builder.py"
    gate = tmp_path / "gate"
    builder.write_text(GATED_BUILDER.format(gate=str(gate)))
    store = open_store(segment_min_passages=10, builder=(sys.executable, "-P", str(builder)))
    yield store, gate
    gate.touch()


def test_a_commit_that_waits_for_room_holds_no_thread_and_goes_on_when_a_segment_makes_room(
    gated: tuple[EmbeddedStore, Path], maker: Maker
) -> None:
    store, gate = gated
    crowded, other = (store.create(name, collection_config()) for name in ("crowded", "other"))
    crowded.commit([maker.upsert(f"d{i}") for i in range(160)]).result(30)
    waiting = crowded.commit([maker.upsert("late")])
    behind = crowded.commit([])
    for i in range(5):
        other.commit([maker.upsert(f"o{i}")]).result(30)
    assert other.count(None) == 5
    assert not waiting.done()
    assert not behind.done()
    gate.touch()
    waiting.result(30)
    behind.result(30)
    assert 0 < crowded.stats().waited_seconds < 60
    wait_until(lambda: not opened(crowded).busy)
    assert crowded.count(None) == 161
    assert store.verify("crowded").ok


def test_a_collection_that_is_closed_lets_commits_that_wait_for_room_go_on(
    gated: tuple[EmbeddedStore, Path], maker: Maker
) -> None:
    store, _ = gated
    crowded = store.create("crowded", collection_config())
    crowded.commit([maker.upsert(f"d{i}") for i in range(160)]).result(30)
    waiting = crowded.commit([maker.upsert("late")])
    store.close()
    assert waiting.result(0).sequences


def test_a_long_transaction_of_one_collection_does_not_stop_the_others(open_store: OpenStore, maker: Maker) -> None:
    store = open_store()
    slow, quick = (store.create(name, collection_config()) for name in ("slow", "quick"))
    held = threading.Event()
    long = slow.submit(Task(lambda _: held.wait(30), lambda _: None))
    quick.commit([maker.upsert("a")]).result(30)
    assert not long.done()
    held.set()
    long.result(30)


def test_an_idle_collection_asks_for_no_thread_and_no_alarm(open_store: OpenStore, maker: Maker) -> None:
    store = open_store(collection_idle_seconds=0)
    collection = store.create("papers", collection_config())
    collection.commit([maker.upsert("a")]).result(30)
    assert store._clock._alarms == []
    assert not opened(collection).busy
