"""Slots, the queue and rates: what is let through, in which order, and what is left when all have gone."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, Overloaded
from shortlist_server.rpc.answers import AnswerRoom, UnsentAnswers
from shortlist_server.rpc.exchange import Exchange
from shortlist_server.rpc.limits import WAIT_OPERATION, AdmissionQueue, LimitInterceptor, Rates, Shared
from shortlist_server.rpc.slots import Slots


def slots(limit: int, each: int) -> Slots:
    return Slots("all", limit, "each", each, 1.0)


async def test_a_large_message_of_a_wait_counts_until_the_client_has_taken_it() -> None:
    limits = LimitInterceptor(Config(max_unsent_bytes=150_000))

    async def wait(request: object, context: object) -> AsyncIterator[bytes]:
        yield b"x" * 100_000

    def stream() -> AsyncGenerator[bytes, None]:
        handler: Any = limits.wrapped(WAIT_OPERATION, grpc.unary_stream_rpc_method_handler(wait))
        served: AsyncGenerator[bytes, None] = handler.unary_stream(Exchange(receive), Somebody())
        return served

    async def receive(_: ExitStack) -> object:
        return object()

    first, second = stream(), stream()
    assert len(await anext(first)) == 100_000
    with pytest.raises(Overloaded, match="max_unsent_bytes"):
        await anext(second)
    await first.aclose()
    assert len(await anext(stream())) == 100_000


class Somebody:
    """The context of a call."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def test_slots_are_counted_in_all_and_for_each_caller() -> None:
    some = slots(3, 2)
    with some.taking("a"), some.taking("a"):
        with pytest.raises(Overloaded) as caught, some.taking("a"):
            pass
        assert caught.value.metadata == {"setting": "each", "limit": "2"}
        with some.taking("b"):
            with pytest.raises(Overloaded) as caught, some.taking("c"):
                pass
            assert caught.value.metadata["setting"] == "all"
    assert some.taken == 0
    assert some._of_caller == {}


def test_a_slot_is_given_back_when_its_call_fails() -> None:
    some = slots(1, 0)
    for _ in range(3):
        with contextlib.suppress(ValueError), some.taking("a"):
            raise ValueError
    assert some.taken == 0


async def test_those_who_wait_get_their_turn_in_the_order_they_came() -> None:
    queue, order = AdmissionQueue(1, 5.0), []

    async def one(number: int) -> None:
        async with queue.taking():
            await asyncio.sleep(0.002)  # The work.
            order.append(number)

    await asyncio.gather(*map(one, range(10)))
    assert order == list(range(10))


async def test_who_would_wait_too_long_is_told_at_once_and_how_long_it_would_be() -> None:
    queue = AdmissionQueue(1, 0.1)
    refused: list[tuple[float, float]] = []
    served = 0

    async def one() -> None:
        nonlocal served
        begin = time.monotonic()
        try:
            async with queue.taking():
                await asyncio.sleep(0.02)  # The work, which sets the pace.
                served += 1
        except Overloaded as error:
            assert error.retry_after_seconds is not None
            refused.append((time.monotonic() - begin, error.retry_after_seconds))

    for _ in range(4):
        await asyncio.gather(*(one() for _ in range(20)))
    assert served >= 8
    assert min(seconds for seconds, _ in refused) < 0.02, "once the pace is known, nobody waits in vain"
    assert max(seconds for seconds, _ in refused) < 0.5
    assert all(wait > 0 for _, wait in refused)


async def test_one_who_gives_up_waiting_leaves_no_gap() -> None:
    queue = AdmissionQueue(1, 5.0)
    async with queue.taking():
        waiting = asyncio.create_task(queue.taking().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1), queue.taking():
        pass
    assert queue._waiting == 0


def test_a_rate_allows_a_seconds_worth_at_once_and_then_its_pace() -> None:
    rates = Rates(20.0)
    for _ in range(20):
        rates.take("a")
    with pytest.raises(Overloaded) as caught:
        rates.take("a")
    assert 0 < (caught.value.retry_after_seconds or 0) <= 0.05
    rates.take("b")
    end = time.monotonic() + 10
    while True:
        try:
            rates.take("a")
            break
        except Overloaded:
            assert time.monotonic() < end


def test_no_rate_is_no_limit_and_callers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(1000):
        Rates(0.0).take("a")
    monkeypatch.setattr("shortlist_server.rpc.limits.MAX_CALLERS", 5)
    rates = Rates(1.0)
    for number in range(50):
        rates.take(str(number))
    assert len(rates._buckets) == 5


def test_who_has_nothing_gets_any_amount_and_others_what_is_left() -> None:
    some = slots(10, 5)
    with some.taking("a", 20), pytest.raises(Overloaded), some.taking("b", 1):
        pass
    with some.taking("a", 4), some.taking("b", 5):
        with pytest.raises(Overloaded) as caught, some.taking("a", 2):
            pass
        assert caught.value.metadata["setting"] == "all"
        with some.taking("a", 1):
            pass
    assert some.taken == 0
    assert some._of_caller == {}


async def test_the_parts_of_a_call_share_one_turn_from_the_first_to_the_last() -> None:
    queue = AdmissionQueue(1, 0.0)
    shared = Shared(queue.taking)
    async with shared.taking():
        async with shared.taking():
            assert queue.all_taken
        assert queue.all_taken
    assert not queue.all_taken
    async with queue.taking():
        with pytest.raises(Overloaded):
            async with shared.taking():
                pass
    async with shared.taking():
        assert queue.all_taken
    assert not queue.all_taken


def test_an_answer_of_parts_is_refused_with_the_part_that_is_too_much() -> None:
    room = AnswerRoom(100)
    room.take(60)
    room.take(40)
    with pytest.raises(InvalidArgument) as caught:
        room.take(1)
    assert caught.value.metadata == {"setting": "max_message_bytes", "limit": "100"}


async def test_answers_that_wait_are_bounded_by_their_bytes_and_small_ones_by_their_number() -> None:
    unsent, mebibyte = UnsentAnswers(8 * 2**20), 2**20
    with contextlib.ExitStack() as held:
        for _ in range(4):
            unsent.take(held, "a", mebibyte)
        unsent.check("a", large=False)
        with pytest.raises(Overloaded) as caught:
            unsent.check("a", large=True)
        assert caught.value.metadata["setting"] == "max_unsent_bytes_per_caller"
        unsent.take(held, "b", 4 * mebibyte)
        with pytest.raises(Overloaded) as caught:
            unsent.take(held, "c", mebibyte)
        assert caught.value.metadata["setting"] == "max_unsent_bytes"
        for _ in range(251):
            unsent.take(held, "a", 100)
        with pytest.raises(Overloaded) as caught:
            for _ in range(10):
                unsent.take(held, "a", 100)
        assert caught.value.metadata["setting"] == "max_unsent_answers_per_caller"
        unsent.take(held, "c", 100)
    unsent.check("a", large=True)
