"""Tests of differences, against cases whose answer is known."""

import random

import pytest

from shortlist_server.ranking.significance import adjusted, difference, interval, shown


def test_equal_lists_do_not_differ() -> None:
    found = difference([0.5, 1.0, 0.0], [0.5, 1.0, 0.0])
    assert (found.mean, found.low, found.high, found.p, found.same) == (0, 0, 0, 1, 3)
    assert not found.significant


def test_a_gain_of_every_query_is_significant_and_one_of_few_is_not() -> None:
    before = [number / 40 for number in range(40)]
    every = difference(before, [value + 0.1 for value in before])
    assert every.significant
    assert every.mean == pytest.approx(0.1)
    assert (every.better, every.worse, every.same) == (40, 0, 0)
    few = difference(before, [*(value + 0.1 for value in before[:3]), *before[3:]])
    assert not few.significant


def test_the_p_value_is_the_share_of_sign_flips_at_least_as_large() -> None:
    # Of the 2^4 ways to flip four gains of one size, two have all signs alike.
    assert difference([0.0] * 4, [0.5] * 4).p == pytest.approx(2 / 16)


def test_the_same_figures_give_the_same_answer() -> None:
    numbers = random.Random(1)
    first, second = ([numbers.random() for _ in range(50)] for _ in range(2))
    assert difference(first, second) == difference(first, second)


def test_an_interval_holds_the_mean_and_has_no_width_without_spread() -> None:
    spread = interval([0.0, 1.0] * 20)
    assert spread.low < spread.mean == 0.5 < spread.high
    flat = interval([0.25] * 5)
    assert flat.low == flat.mean == flat.high == 0.25


def test_no_p_value_is_shown_as_nothing() -> None:
    assert (shown(0.0001), shown(0.0214), shown(1)) == ("<0.001", "0.021", "1.000")


def test_many_comparisons_raise_the_bar() -> None:
    assert adjusted([0.03]) == [0.03]
    assert adjusted([0.03, 0.9, 0.9]) == pytest.approx([0.09, 0.9, 0.9])
    assert adjusted([]) == []
