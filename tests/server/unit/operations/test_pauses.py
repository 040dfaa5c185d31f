"""Operations that pause, and that go on after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from shortlist_server.errors import OperationNotPausable, Overloaded, Unavailable
from shortlist_server.operations.operation import Control, Kind, Pauses, State, Work
from shortlist_server.operations.registry import OperationRegistry


class Build:
    """A work that pauses and survives, as a reindex does."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.control: Control | None = None
        self.work = Work(
            kind=Kind.REINDEX,
            collection="a",
            collections=("a",),
            run=self.run,
            turns=None,
            id="stable",
            pauses=Pauses(pause=lambda: self.note("pause"), resume=lambda: self.note("resume")),
            survives=True,
        )

    async def run(self, control: Control) -> str:
        self.control = control
        control.report_progress("begun")
        await control.interruptible(self.built())
        return "built"

    async def built(self) -> None:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.calls.append("stopped")
            raise

    async def note(self, call: str) -> None:
        self.calls.append(call)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


async def running() -> tuple[OperationRegistry, Build]:
    registry, build = OperationRegistry(most=2), Build()
    registry.start(build.work, caller="me")
    await until(build.begun.is_set)
    return registry, build


async def test_an_operation_pauses_resumes_and_ends() -> None:
    registry, build = await running()
    assert (await registry.pause("stable")).state is State.PAUSED
    assert (await registry.pause("stable")).state is State.PAUSED
    assert registry.unfinished == 1
    assert (await registry.resume("stable")).state is State.RUNNING
    assert build.calls == ["pause", "pause", "resume"]
    build.go.set()
    await until(lambda: registry.get("stable").state is State.SUCCEEDED)
    assert (await registry.pause("stable")).state is State.SUCCEEDED
    assert build.calls == ["pause", "pause", "resume"]


async def test_a_work_that_cannot_go_on_says_so_in_its_progress() -> None:
    registry, build = await running()
    assert build.control is not None
    build.control.report_progress("the model fails", paused=True)
    await until(lambda: registry.get("stable").state is State.PAUSED)
    build.control.report_progress("it works again", paused=False)
    await until(lambda: registry.get("stable").state is State.RUNNING)


async def test_a_paused_operation_can_be_cancelled() -> None:
    registry, build = await running()
    await registry.pause("stable")
    assert registry.cancel("stable").state is State.CANCELLING
    await until(lambda: registry.get("stable").state is State.CANCELLED)
    assert build.calls == ["pause", "stopped"]


async def test_other_kinds_refuse_to_pause() -> None:
    registry, go = OperationRegistry(most=2), asyncio.Event()

    async def run(control: Control) -> None:
        await go.wait()

    work = Work(kind=Kind.BACKUP, collection="a", collections=("a",), run=run, turns=asyncio.Semaphore(1))
    id = registry.start(work, caller="me").id
    for call in (registry.pause, registry.resume):
        with pytest.raises(OperationNotPausable, match="'backup' cannot pause"):
            await call(id)
    go.set()


async def test_a_stop_leaves_an_operation_that_survives_and_tells_its_watchers_to_come_back() -> None:
    registry, build = await running()
    views = registry.watch("stable")
    assert (await anext(views)).state is State.RUNNING
    await registry.stop(10)
    assert build.calls == ["stopped"], "its work ends without being cancelled for good"
    assert not registry.get("stable").state.ended
    with pytest.raises(Unavailable, match="under the same name"):
        async with asyncio.timeout(10):
            async for _ in views:
                pass
    # After the restart it is there again, under the same id, and however many others there are.
    again = OperationRegistry(most=1)
    again.start(Build().work, caller="me")
    with pytest.raises(Overloaded, match="reindexes run or wait"):
        again.check_room("another", survives=True)
    again.check_room("another")
    other = Build().work
    assert again.start(other, caller="server", accepted=True).id == "stable"
    await again.stop(10)


async def test_a_work_that_was_paused_before_a_restart_begins_paused() -> None:
    registry, build = OperationRegistry(most=2), Build()
    registry.start(replace(build.work, paused=True), caller="server")
    await until(lambda: registry.get("stable").state is not State.PENDING)
    assert registry.get("stable").state is State.PAUSED
    await until(build.begun.is_set)
    build.go.set()
    await until(lambda: registry.get("stable").state is State.SUCCEEDED)
