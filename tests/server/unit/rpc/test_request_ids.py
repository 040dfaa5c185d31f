"""A call with a request id is done once, however often it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortlist.v1 import admin_service_pb2, collection_pb2, evaluation_pb2
from shortlist.v1 import document_service_pb2 as pb
from shortlist_server.errors import Overloaded, RequestIdReused, Unavailable
from shortlist_server.rpc import request_ids
from shortlist_server.rpc.request_ids import RequestIds, _fingerprint

Answer = pb.DeleteResponse


def counting(done: list[int], error: Exception | None = None) -> Callable[[], Coroutine[Any, Any, Answer]]:
    async def work() -> Answer:
        await asyncio.sleep(0)
        done.append(1)
        if error is not None:
            raise error
        return Answer(deleted_count=len(done))

    return work


async def test_a_repetition_has_the_first_answer() -> None:
    ids, done = RequestIds(most_at_once=8), list[int]()
    answers = [await ids.answer("me", "1", b"a", counting(done)) for _ in range(3)]
    assert len(done) == 1
    assert [answer.deleted_count for answer in answers] == [1, 1, 1]


async def test_calls_at_the_same_time_wait_for_one() -> None:
    ids, done = RequestIds(most_at_once=8), list[int]()
    answers = await asyncio.gather(*(ids.answer("me", "1", b"a", counting(done)) for _ in range(20)))
    assert len(done) == 1
    assert {answer.deleted_count for answer in answers} == {1}


async def test_another_request_under_the_same_id_is_refused_during_and_after() -> None:
    ids, done = RequestIds(most_at_once=8), list[int]()
    first = asyncio.create_task(ids.answer("me", "1", b"a", counting(done)))
    await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(RequestIdReused) as caught:
            await ids.answer("me", "1", b"b", counting(done))
        assert caught.value.field == "request_id"
        await first
    assert len(done) == 1


async def test_ids_of_different_callers_have_nothing_to_do_with_each_other() -> None:
    ids, done = RequestIds(most_at_once=8), list[int]()
    await ids.answer("me", "1", b"a", counting(done))
    await ids.answer("you", "1", b"b", counting(done))
    assert len(done) == 2


async def test_a_failed_call_is_done_again_but_those_that_wait_share_its_error() -> None:
    ids, done = RequestIds(most_at_once=8), list[int]()
    failing = counting(done, Unavailable("away"))
    results = await asyncio.gather(*(ids.answer("me", "1", b"a", failing) for _ in range(3)), return_exceptions=True)
    assert len(done) == 1
    assert all(isinstance(result, Unavailable) for result in results)
    answer = await ids.answer("me", "1", b"a", counting(done))
    assert (len(done), answer.deleted_count) == (2, 2)


async def test_a_call_that_is_cancelled_is_done_all_the_same() -> None:
    ids, done = RequestIds(most_at_once=8), list[int]()
    call = asyncio.create_task(ids.answer("me", "1", b"a", counting(done)))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await ids.answer("me", "1", b"a", counting(done))).deleted_count == 1
    assert len(done) == 1


async def test_a_fault_that_nobody_waits_for_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    ids = RequestIds(most_at_once=8)
    call = asyncio.create_task(ids.answer("me", "1", b"a", counting([], KeyError("fault"))))
    await asyncio.sleep(0)
    call.cancel()
    with caplog.at_level(logging.ERROR):
        await ids.drain(5)
        await asyncio.sleep(0)
    assert [record.message for record in caplog.records] == ["a call failed whose caller is gone"]


async def test_answers_are_forgotten_by_age_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [0.0], list[int]()
    ids = RequestIds(most_at_once=8, clock=lambda: now[0])

    async def again(request_id: str, caller: str = "me") -> bool:
        """Whether the call is done again."""
        before = len(done)
        await ids.answer(caller, request_id, b"a", counting(done))
        return len(done) > before

    assert await again("1") and not await again("1")
    now[0] = request_ids.KEPT_SECONDS + 1
    assert await again("1")
    monkeypatch.setattr(request_ids, "KEPT_OF_CALLER", 2)
    assert await again("2") and await again("3")
    assert await again("other", "you")
    assert not await again("2") and not await again("other", "you")
    assert await again("1")
    monkeypatch.setattr(request_ids, "KEPT", 1)
    assert await again("4") and not await again("4")
    assert await again("other", "you")
    monkeypatch.setattr(request_ids, "KEPT_BYTES", 0)
    assert await again("5") and await again("5")


async def test_too_many_at_once_are_refused() -> None:
    ids, go = RequestIds(most_at_once=2, most_of_caller=1), asyncio.Event()

    async def wait() -> Answer:
        await go.wait()
        return Answer()

    first = asyncio.create_task(ids.answer("me", "1", b"a", wait))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="one caller"):
        await ids.answer("me", "2", b"a", wait)
    second = asyncio.create_task(ids.answer("you", "1", b"a", wait))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="the server"):
        await ids.answer("third", "1", b"a", wait)
    go.set()
    await asyncio.gather(first, second)
    await ids.answer("me", "2", b"a", wait)


async def test_a_drain_waits_then_cancels() -> None:
    ids = RequestIds(most_at_once=4)

    async def forever() -> Answer:
        await asyncio.Event().wait()
        return Answer()

    call = asyncio.create_task(ids.answer("me", "1", b"a", forever))
    await asyncio.sleep(0)
    await ids.drain(0.01)
    with pytest.raises(Unavailable, match="stopping"):
        await call


async def test_work_that_a_drain_cancels_has_ended_when_it_returns() -> None:
    ids, ended = RequestIds(most_at_once=4), list[bool]()

    async def forever() -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)  # What it uses is still there.
            ended.append(True)
        return Answer()

    call = asyncio.create_task(ids.answer("me", "1", b"a", forever))
    await asyncio.sleep(0)
    await ids.drain(0.01)
    assert ended == [True]
    with pytest.raises(Unavailable):
        await call


async def test_what_a_call_holds_of_the_limits_is_held_until_its_work_has_ended() -> None:
    ids, go, held = RequestIds(most_at_once=8), asyncio.Event(), list[str]()

    async def wait() -> Answer:
        await go.wait()
        return Answer()

    def holding(name: str) -> ExitStack:
        stack = ExitStack()
        held.append(name)
        stack.callback(held.remove, name)
        return stack

    first, again = holding("first"), holding("again")
    calls = [asyncio.create_task(ids.answer("me", "1", b"a", wait, stack)) for stack in (first, again)]
    await asyncio.sleep(0)
    for call, stack in zip(calls, (first, again), strict=True):
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        stack.close()  # As the end of the call does.
    assert held == ["first"]
    go.set()
    await ids.drain(10)
    await asyncio.sleep(0)
    assert held == []


def test_a_fingerprint_is_of_what_a_request_says() -> None:
    def judged(*queries: tuple[str, str], **others: Any) -> bytes:
        given = [evaluation_pb2.JudgedQuery(id=id, text=text) for id, text in queries]
        return _fingerprint("/Evaluate", admin_service_pb2.EvaluateRequest(queries=given, **others))

    different = [
        judged(),
        judged(("a", "b")),
        judged(("a", "b"), ("c", "d")),
        judged(("c", "d"), ("a", "b")),
        judged(("a", "b"), collection="x"),
        judged(("a", "b"), collection="x", include_queries=True),
        judged(settings=[collection_pb2.SearchDefaults()]),
        judged(("", "")),
    ]
    assert len(set(different)) == len(different)
    assert judged(("a", "b"), collection="x") == judged(("a", "b"), collection="x")


CALLS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.sampled_from([b"x", b"y"]), st.booleans(), st.booleans())
)


@settings(max_examples=200, deadline=None)
@given(CALLS)
def test_no_call_succeeds_twice_under_one_id(calls: list[tuple[str, str, bytes, bool, bool]]) -> None:
    """However calls overlap, fail and are cancelled."""

    async def live() -> None:
        ids = RequestIds(most_at_once=1000)
        succeeded: dict[tuple[str, str], list[bytes]] = {}
        tasks = []
        for caller, request_id, fingerprint, fails, cancels in calls:

            async def work(
                key: tuple[str, str] = (caller, request_id), fingerprint: bytes = fingerprint, fails: bool = fails
            ) -> Answer:
                await asyncio.sleep(0)
                if fails:
                    raise Unavailable("away")
                succeeded.setdefault(key, []).append(fingerprint)
                return Answer(deleted_count=fingerprint[0])

            task = asyncio.create_task(ids.answer(caller, request_id, fingerprint, work))
            tasks.append((task, fingerprint))
            await asyncio.sleep(0)
            if cancels:
                task.cancel()
        await ids.drain(10)
        for task, fingerprint in tasks:
            try:
                answer = await task
            except (Unavailable, RequestIdReused, asyncio.CancelledError):
                continue
            assert answer.deleted_count == fingerprint[0]
        assert all(len(done) == 1 for done in succeeded.values())

    asyncio.run(live())
