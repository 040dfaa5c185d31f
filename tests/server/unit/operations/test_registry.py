"""Operations: their turns, how they are followed, cancelled, kept and forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist_server.errors import InvalidArgument, OperationNotFound, Overloaded, ShortlistError, Unavailable
from shortlist_server.operations import registry as registry_module
from shortlist_server.operations.operation import Control, Kind, Operation, State, Work
from shortlist_server.operations.registry import OperationRegistry


def work(
    run: Callable[[Control], Awaitable[object]], turns: asyncio.Semaphore | None = None, collection: str = "a"
) -> Work:
    return Work(
        kind=Kind.BACKUP,
        collection=collection,
        collections=(collection,),
        run=run,
        turns=turns or asyncio.Semaphore(100),
    )


async def ended(registry: OperationRegistry, id: str) -> Operation:
    async with asyncio.timeout(10):
        views = [view async for view in registry.watch(id)]
    return views[-1]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


async def stoppable(control: Control) -> str:
    """Runs until it is cancelled."""
    return await control.interruptible(forever())


async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


async def test_an_operation_waits_runs_and_succeeds_with_its_result() -> None:
    registry, go = OperationRegistry(most=10), asyncio.Event()

    async def run(control: Control) -> str:
        control.report_progress("half")
        await go.wait()
        return "made"

    started = registry.start(work(run), caller="me")
    assert (started.state, started.number, started.collection) == (State.PENDING, 1, "a")
    await until(lambda: registry.get(started.id).progress == "half")
    assert registry.get(started.id).state is State.RUNNING
    go.set()
    last = await ended(registry, started.id)
    assert (last.state, last.result, last.progress, last.error) == (State.SUCCEEDED, "made", "half", None)
    assert last.end_seconds is not None and last.create_seconds <= last.end_seconds
    assert registry.ended == {("backup", "succeeded"): 1}


async def test_operations_of_the_same_turns_run_one_after_the_other() -> None:
    registry, turns, gates = OperationRegistry(most=10), asyncio.Semaphore(1), [asyncio.Event() for _ in range(2)]
    first, second = (registry.start(work(lambda _, gate=gate: gate.wait(), turns), caller="") for gate in gates)  # type: ignore[misc]
    await until(lambda: registry.get(first.id).state is State.RUNNING)
    assert registry.get(second.id).state is State.PENDING
    gates[0].set()
    await until(lambda: registry.get(second.id).state is State.RUNNING)
    gates[1].set()
    assert (await ended(registry, second.id)).state is State.SUCCEEDED


async def test_one_that_waits_is_cancelled_at_once_and_takes_no_turn() -> None:
    registry, turns = OperationRegistry(most=10), asyncio.Semaphore(1)
    first = registry.start(work(stoppable, turns), caller="")
    await until(lambda: registry.get(first.id).state is State.RUNNING)
    second, third = (registry.start(work(stoppable, turns), caller="") for _ in range(2))
    # One has begun to wait, the other has not even been scheduled.
    await asyncio.sleep(0)
    fourth = registry.start(work(stoppable, turns), caller="")
    for one in (second, fourth):
        view = registry.cancel(one.id)
        assert view.state is State.CANCELLED
        assert isinstance(view.error, ShortlistError) and view.error.reason == "OPERATION_CANCELLED"
    registry.cancel(first.id)
    assert (await ended(registry, first.id)).state is State.CANCELLED
    await until(lambda: registry.get(third.id).state is State.RUNNING)
    registry.cancel(third.id)
    assert (await ended(registry, third.id)).state is State.CANCELLED
    assert registry.ended == {("backup", "cancelled"): 4}


async def test_what_is_done_before_it_stops_has_succeeded() -> None:
    registry, go = OperationRegistry(most=10), asyncio.Event()

    async def deaf(_: Control) -> str:
        await go.wait()
        return "made"

    started = registry.start(work(deaf), caller="")
    await until(lambda: registry.get(started.id).state is State.RUNNING)
    assert registry.cancel(started.id).state is State.CANCELLING
    assert registry.cancel(started.id).state is State.CANCELLING
    go.set()
    last = await ended(registry, started.id)
    assert (last.state, last.result) == (State.SUCCEEDED, "made")
    assert registry.cancel(started.id) == last


async def test_a_thread_stops_at_its_next_check_and_only_then_is_the_operation_cancelled() -> None:
    registry, reached, go, cleaned = OperationRegistry(most=10), threading.Event(), threading.Event(), []

    def copy(control: Control) -> None:
        try:
            reached.set()
            go.wait(10)
            control.cancellation.check()
        finally:
            cleaned.append(True)

    with ThreadPoolExecutor(1) as threads:
        started = registry.start(work(lambda control: control.in_thread(threads, lambda: copy(control))), caller="")
        await asyncio.to_thread(reached.wait, 10)
        assert registry.cancel(started.id).state is State.CANCELLING
        assert cleaned == []
        go.set()
        assert (await ended(registry, started.id)).state is State.CANCELLED
        assert cleaned == [True]


async def test_an_error_is_kept_and_one_that_nobody_foresaw_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    registry = OperationRegistry(most=10)

    async def refuse(_: Control) -> None:
        raise InvalidArgument("taken", field="name") from ValueError("cause")

    async def break_down(_: Control) -> None:
        raise KeyError("secret")

    first = await ended(registry, registry.start(work(refuse), caller="").id)
    assert first.state is State.FAILED
    assert isinstance(first.error, InvalidArgument) and first.error.field == "name"
    # No traceback keeps alive what the work had in hand.
    assert first.error.__traceback__ is None and first.error.__cause__ is None
    with caplog.at_level(logging.ERROR):
        second = await ended(registry, registry.start(work(break_down), caller="").id)
    assert second.state is State.FAILED
    assert type(second.error) is ShortlistError and "secret" not in str(second.error)
    assert any("secret" in str(record.exc_info) for record in caplog.records)


async def test_a_watcher_sees_the_present_then_changes_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "PROGRESS_SECONDS", 0.01)
    registry, steps = OperationRegistry(most=10), asyncio.Queue[int]()

    async def count(control: Control) -> str:
        while (step := await steps.get()) < 3:
            control.report_progress(step)
        return "counted"

    started = registry.start(work(count), caller="")
    seen: list[object] = []
    async with asyncio.timeout(10):
        async for view in registry.watch(started.id):
            if view.progress not in seen:
                seen.append(view.progress)
            if view.progress == (seen[-1] if seen else None) and not view.state.ended:
                steps.put_nowait(len([one for one in seen if one is not None]) + 1)
    assert seen[-1] == 2 and view.state is State.SUCCEEDED
    # A watcher that comes after the end sees it at once.
    assert [one.state async for one in registry.watch(started.id)] == [State.SUCCEEDED]


async def test_a_slow_watcher_still_sees_the_end() -> None:
    registry, go = OperationRegistry(most=10), asyncio.Event()
    started = registry.start(work(lambda _: go.wait()), caller="")
    views = registry.watch(started.id)
    assert (await anext(views)).state is State.PENDING
    go.set()
    await until(lambda: registry.get(started.id).state.ended)
    assert [view.state async for view in views] == [State.SUCCEEDED]


async def test_a_watcher_that_goes_away_changes_nothing() -> None:
    registry, go = OperationRegistry(most=10), asyncio.Event()
    started = registry.start(work(lambda _: go.wait()), caller="")
    watcher = asyncio.create_task(ended(registry, started.id))
    await until(lambda: registry.get(started.id).state is State.RUNNING)
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher
    go.set()
    assert (await ended(registry, started.id)).state is State.SUCCEEDED


async def test_progress_from_a_thread_is_the_latest_however_fast_it_comes() -> None:
    registry = OperationRegistry(most=10)

    def run(control: Control) -> None:
        for step in range(100_000):
            control.report_progress(step)

    with ThreadPoolExecutor(1) as threads:
        started = registry.start(work(lambda control: control.in_thread(threads, lambda: run(control))), caller="")
        views = [view async for view in registry.watch(started.id)]
    assert views[-1].progress == 99_999
    assert len(views) < 100


async def test_too_many_are_refused_with_a_time_to_wait_and_one_caller_may_have_half() -> None:
    registry = OperationRegistry(most=4)
    for _ in range(2):
        registry.start(work(stoppable), caller="greedy")
    with pytest.raises(Overloaded, match="of your operations") as caught:
        registry.start(work(stoppable), caller="greedy")
    assert caught.value.retry_after_seconds
    assert caught.value.metadata == {"setting": "max_operations", "limit": "2"}
    for _ in range(2):
        registry.start(work(stoppable), caller="modest")
    with pytest.raises(Overloaded, match="4 operations run or wait"):
        registry.start(work(stoppable), caller="third")
    registry.cancel(registry.all()[0].id)
    assert registry.unfinished == 3
    registry.start(work(stoppable), caller="third")
    await registry.stop(10)


async def test_the_bytes_of_their_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "HELD_BYTES", 100)
    registry = OperationRegistry(most=10)

    def start(held_bytes: int) -> Operation:
        return registry.start(dataclasses.replace(work(stoppable), held_bytes=held_bytes), caller="me")

    first = start(150)
    with pytest.raises(Overloaded) as caught:
        start(1)
    assert caught.value.metadata["setting"] == "max_operation_bytes"
    start(0)
    registry.cancel(first.id)
    await ended(registry, first.id)
    start(60)
    start(40)
    await registry.stop(10)


async def test_ended_operations_are_forgotten_by_number_age_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "KEPT", 3)
    registry = OperationRegistry(most=100, size_of=lambda result: len(str(result)))

    async def give(result: str) -> str:
        return result

    async def run(result: str) -> str:
        id = registry.start(work(lambda _: give(result)), caller="").id
        await ended(registry, id)
        return id

    ids = [await run("x") for _ in range(5)]
    assert [one.id for one in registry.all()] == list(reversed(ids[2:]))
    with pytest.raises(OperationNotFound, match="restarted"):
        registry.get(ids[0])
    monkeypatch.setattr(registry_module, "KEPT_BYTES", 10)
    large = await run("y" * 100)
    # The newest stays whatever its size.
    assert [one.id for one in registry.all()] == [large]
    monkeypatch.setattr(registry_module, "KEPT_SECONDS", -1.0)
    assert registry.all() == []


async def test_whoever_has_most_ended_operations_loses_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "KEPT", 4)
    monkeypatch.setattr(registry_module, "KEPT_BYTES", 100)
    registry = OperationRegistry(most=10, size_of=lambda result: len(str(result)))

    async def one(caller: str, size: int) -> str:
        async def run(_: Control) -> str:
            return "x" * size

        id = registry.start(work(run), caller=caller).id
        await ended(registry, id)
        return id

    mine = await one("me", 10)
    theirs = [await one("them", 1) for _ in range(6)]
    assert {operation.id for operation in registry.all()} == {mine, *theirs[-3:]}
    large = [await one("them", 60) for _ in range(2)]
    kept = {operation.id for operation in registry.all()}
    assert mine in kept and large[0] not in kept and large[1] in kept


async def test_an_ended_operation_keeps_nothing_of_what_it_was_asked() -> None:
    class Asked:
        """A request of many megabytes."""

    async def run(asked: Asked) -> str:
        return type(asked).__name__

    registry, asked = OperationRegistry(most=1), Asked()
    kept = weakref.ref(asked)
    started = registry.start(work(partial(lambda asked, _: run(asked), asked)), caller="")
    del asked
    assert kept() is not None
    assert (await ended(registry, started.id)).result == "Asked"
    await asyncio.sleep(0)
    gc.collect()
    assert kept() is None


async def test_a_stop_cancels_all_refuses_more_and_waits() -> None:
    registry, reached, go = OperationRegistry(most=10), threading.Event(), threading.Event()

    def slow() -> None:
        reached.set()
        go.wait(10)

    with ThreadPoolExecutor(1) as threads:
        asleep = registry.start(work(stoppable), caller="")
        busy = registry.start(work(lambda control: control.in_thread(threads, slow)), caller="")
        await asyncio.to_thread(reached.wait, 10)
        await registry.stop(0.05)
        assert registry.get(asleep.id).state is State.CANCELLED
        assert registry.get(busy.id).state is State.CANCELLING
        with pytest.raises(Unavailable):
            registry.start(work(stoppable), caller="")
        go.set()
        await registry.stop(None)
        # It was done before it could stop.
        assert registry.get(busy.id).state is State.SUCCEEDED


STEPS = st.lists(
    st.tuples(st.sampled_from(["start", "cancel", "finish", "fail", "yield"]), st.integers(0, 5)), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_history_ends_as_it_must(steps: list[tuple[str, int]]) -> None:
    """What was cancelled while it waited never ran; what was finished before it was cancelled succeeded."""

    async def live() -> None:
        registry, turns = OperationRegistry(most=100), asyncio.Semaphore(2)
        ran: set[str] = set()
        outcomes: list[asyncio.Future[str]] = []
        ids: list[str] = []
        views: dict[str, list[State]] = {}

        async def run(control: Control, place: int) -> str:
            ran.add(ids[place])

            async def outcome() -> str:
                return await asyncio.shield(outcomes[place])

            return await control.interruptible(outcome())

        async def watch(id: str) -> None:
            async for view in registry.watch(id):
                views.setdefault(id, []).append(view.state)

        watchers: list[asyncio.Task[Any]] = []
        waiting_when_cancelled: set[str] = set()
        for step, number in steps:
            if step == "start":
                place = len(ids)
                outcomes.append(asyncio.get_running_loop().create_future())
                ids.append(registry.start(work(lambda control, place=place: run(control, place), turns), caller="").id)  # type: ignore[misc]
                watchers.append(asyncio.create_task(watch(ids[-1])))
            elif step == "yield":
                for _ in range(number):
                    await asyncio.sleep(0)
            elif ids:
                place = number % len(ids)
                if step == "cancel":
                    if registry.get(ids[place]).state is State.PENDING:
                        waiting_when_cancelled.add(ids[place])
                    registry.cancel(ids[place])
                elif not outcomes[place].done():
                    if step == "finish":
                        outcomes[place].set_result("done")
                    else:
                        outcomes[place].set_exception(InvalidArgument("no"))
        await registry.stop(10)
        async with asyncio.timeout(10):
            await asyncio.gather(*watchers)
        assert registry.unfinished == 0
        assert waiting_when_cancelled.isdisjoint(ran)
        for place, id in enumerate(ids):
            last = registry.get(id)
            assert last.state.ended and last.end_seconds is not None
            assert views[id][-1] is last.state
            assert (last.result is not None) == (last.state is State.SUCCEEDED) == (last.error is None)
            if last.state is State.SUCCEEDED:
                assert outcomes[place].result() == "done"
            if last.state is State.FAILED:
                assert isinstance(last.error, InvalidArgument)
        assert sum(registry.ended.values()) == len(ids)
        for outcome in outcomes:
            outcome.cancel() if not outcome.done() else outcome.exception()

    asyncio.run(live())
