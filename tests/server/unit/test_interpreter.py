"""Turns at the interpreter: one thread at a time works on much, and the event loop goes first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from shortlist_server import interpreter
from shortlist_server.interpreter import LARGE_BYTES, TurnOnceLarge, alone, turn


@pytest.fixture(autouse=True)
def _no_loop_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(interpreter, "_loop", None)
    yield


def test_one_thread_at_a_time_has_a_turn() -> None:
    inside, most = 0, []

    def work() -> None:
        nonlocal inside
        inside += 1
        most.append(inside)
        time.sleep(0.01)
        inside -= 1

    threads = [threading.Thread(target=alone, args=(work,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_a_block_takes_its_turn_at_the_first_large_step_and_gives_it_back() -> None:
    with TurnOnceLarge() as block:
        block.met(LARGE_BYTES - 1)
        assert not turn.locked()
        block.met(LARGE_BYTES)
        block.met(LARGE_BYTES)
        assert turn.locked()
    assert not turn.locked()


def test_a_block_that_fails_gives_its_turn_back() -> None:
    with pytest.raises(ValueError, match="wrong"), TurnOnceLarge() as block:
        block.met(LARGE_BYTES)
        raise ValueError("wrong")
    assert not turn.locked()


async def test_a_large_step_waits_until_the_event_loop_has_done_what_it_had_to_do() -> None:
    interpreter.give_way_to(asyncio.get_running_loop())
    done: list[str] = []
    working = asyncio.create_task(asyncio.to_thread(alone, lambda: done.append("the step")))
    await asyncio.sleep(0)  # The thread has started.
    # The event loop is busy, for less time than a step would wait at most.
    end = time.monotonic() + interpreter.GIVE_WAY_SECONDS / 2
    while time.monotonic() < end:
        pass
    done.append("the event loop")
    await working
    assert done == ["the event loop", "the step"]


async def test_an_event_loop_that_is_held_up_for_long_is_not_waited_for() -> None:
    interpreter.give_way_to(asyncio.get_running_loop())
    done = threading.Event()
    thread = threading.Thread(target=alone, args=(done.set,))
    thread.start()
    assert done.wait(10)  # Blocks the event loop.
    thread.join()


def test_a_closed_event_loop_is_not_waited_for() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    interpreter.give_way_to(loop)
    begin = time.monotonic()
    assert alone(lambda: "done") == "done"
    assert time.monotonic() - begin < interpreter.GIVE_WAY_SECONDS
