"""When writes leave a generation out, and when they take it along again."""

from __future__ import annotations

import pytest

from shortlist_server.errors import Unavailable
from shortlist_server.pipeline.setbacks import HOLD_PER_WAIT, LONGEST_SECONDS, Setbacks

AWAY = Unavailable("the model is away")


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def setbacks(clock: Clock) -> Setbacks:
    return Setbacks(clock)


def hold(setbacks: Setbacks, clock: Clock, waited_seconds: float = 0.0) -> float:
    """The time from a new setback to the first moment, in tenths of a second, at which it can be given back."""
    began = clock.now
    setbacks.note("docs", 2, AWAY, waited_seconds=waited_seconds)
    while setbacks.leaves_out("docs", 2):
        clock.now += 0.1
        setbacks.give_back("docs", 2)
    return clock.now - began


def test_time_alone_ends_no_setback(setbacks: Setbacks, clock: Clock) -> None:
    setbacks.note("docs", 2, AWAY)
    clock.now = 1e6
    assert setbacks.leaves_out("docs", 2)
    assert not setbacks.leaves_out("docs", 3)
    assert not setbacks.leaves_out("others", 2)
    setbacks.give_back("docs", 2)
    assert not setbacks.leaves_out("docs", 2)


def test_setbacks_in_a_row_hold_longer_and_longer(setbacks: Setbacks, clock: Clock) -> None:
    held = [hold(setbacks, clock) for _ in range(13)]
    assert held[:4] == pytest.approx([1, 2, 4, 8], abs=0.2)
    assert held[-2:] == pytest.approx([LONGEST_SECONDS] * 2, abs=0.2)
    clock.now += LONGEST_SECONDS
    assert hold(setbacks, clock) == pytest.approx(1, abs=0.2)


def test_a_setback_for_which_a_write_waited_holds_many_times_as_long(setbacks: Setbacks, clock: Clock) -> None:
    assert hold(setbacks, clock, waited_seconds=5.0) == pytest.approx(HOLD_PER_WAIT * 5.0, abs=0.2)


def test_several_failures_at_once_are_one_setback(
    setbacks: Setbacks, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        setbacks.note("docs", 2, AWAY)
    clock.now = 1.1
    setbacks.give_back("docs", 2)
    assert not setbacks.leaves_out("docs", 2)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_the_build_is_told_at_once_and_then_each_minute(setbacks: Setbacks, clock: Clock) -> None:
    told: list[float] = []
    setbacks.tell(lambda _: told.append(clock.now))
    setbacks.note("docs", 2, AWAY)
    for clock.now in range(1, 130):
        setbacks.left_out("docs", 2)
    assert told == [0, 60, 120]
