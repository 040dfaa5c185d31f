"""Slots, turns and rates: what is let through, in which order, and what is left when all have gone."""

import asyncio
import contextlib
import time

import pytest

from shortlist_server.errors import Overloaded
from shortlist_server.rpc.limits import Rates, Slots, Turns


def slots(limit: int, each: int) -> Slots:
    return Slots("all", limit, "each", each, 1.0)


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
    turns, order = Turns(1, 5.0), []

    async def one(number: int) -> None:
        async with turns.taking():
            await asyncio.sleep(0.002)
            order.append(number)

    await asyncio.gather(*map(one, range(10)))
    assert order == list(range(10))


async def test_who_would_wait_too_long_is_told_at_once_and_how_long_it_would_be() -> None:
    turns = Turns(1, 0.1)
    refused: list[tuple[float, float]] = []
    served = 0

    async def one() -> None:
        nonlocal served
        begin = time.monotonic()
        try:
            async with turns.taking():
                await asyncio.sleep(0.02)
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
    turns = Turns(1, 5.0)
    async with turns.taking():
        waiting = asyncio.create_task(turns.taking().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1), turns.taking():
        pass
    assert turns._waiting == 0


def test_a_rate_allows_a_seconds_worth_at_once_and_then_its_pace() -> None:
    rates = Rates(20.0)
    for _ in range(20):
        rates.take("a")
    with pytest.raises(Overloaded) as caught:
        rates.take("a")
    assert 0 < (caught.value.retry_after_seconds or 0) <= 0.05
    rates.take("b")
    time.sleep(0.06)
    rates.take("a")


def test_no_rate_is_no_limit_and_callers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(1000):
        Rates(0.0).take("a")
    monkeypatch.setattr("shortlist_server.rpc.limits.MAX_CALLERS", 5)
    rates = Rates(1.0)
    for number in range(50):
        rates.take(str(number))
    assert len(rates._buckets) == 5
