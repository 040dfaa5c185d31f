"""The rates of a reindex: documents and tokens of the last minute."""

from __future__ import annotations

from shortlist_server.pipeline.reindex.rates import Rates


def test_rates_are_those_of_the_last_minute() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    assert rates.now() == (0.0, 0.0)
    now = 10.0
    rates.add(20, 400)
    assert rates.now() == (2.0, 40.0)
    now = 65.0
    rates.add(6, 60)
    assert rates.now() == (26 / 65, 460 / 65)
    now = 100.0
    assert rates.now() == (6 / 55, 60 / 55)
    rates.begin()
    now = 101.0
    assert rates.now() == (0.0, 0.0)


def test_rates_fall_between_two_steps_only_when_the_build_seems_to_stand_still() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    for now in (10.0, 20.0):  # noqa: B007
        rates.add(20, 400)
    now = 39.0
    assert rates.now() == (2.0, 40.0)
    now = 80.0
    assert rates.now() == (20 / 70, 400 / 70)
