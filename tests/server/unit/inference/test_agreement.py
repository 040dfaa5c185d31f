"""When a converted model may stand for the original."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist_server.inference.agreement import rank_agreement, vector_agreement

SCORES = [np.array([9.0, 7.0, 3.0, 1.0, -2.0, -8.0], dtype=np.float32), np.arange(6, dtype=np.float32) * 3]


def test_small_errors_that_keep_the_order_hold() -> None:
    found = rank_agreement(SCORES, [scores + np.float32(0.1) for scores in SCORES])
    assert found.holds
    assert "rank correlation 1.000" in found.detail


def test_saturated_scores_are_compared_as_they_are() -> None:
    """The sigmoids of all of them are 1, whatever the order."""
    high = [scores + np.float32(50) for scores in SCORES]
    assert not rank_agreement(high, [scores[::-1].copy() for scores in high]).holds


def test_a_changed_order_does_not_hold_however_small_the_error() -> None:
    one = np.array([100.0, 0.03, 0.02, 0.01, 0.0, -0.01], dtype=np.float32)
    other = np.array([100.0, -0.01, 0.0, 0.01, 0.02, 0.03], dtype=np.float32)
    found = rank_agreement([one], [other])
    assert "differ by 0.00" in found.detail
    assert not found.holds


def test_errors_as_large_as_the_spread_do_not_hold_even_in_order() -> None:
    assert not rank_agreement(SCORES, [2 * scores for scores in SCORES]).holds


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_score_that_is_no_number_never_holds(broken: float) -> None:
    other = [scores.copy() for scores in SCORES]
    other[0][0] = broken
    assert not rank_agreement(SCORES, other).holds
    assert not rank_agreement(SCORES, [np.full(6, broken, dtype=np.float32) for _ in SCORES]).holds


def test_a_query_whose_texts_all_score_the_same_has_no_order_to_lose() -> None:
    flat = np.zeros(6, dtype=np.float32)
    assert rank_agreement([*SCORES, flat], [*SCORES, flat + np.float32(0.01)]).holds


def test_vectors_are_compared_by_their_cosine() -> None:
    vectors = np.eye(4, dtype=np.float32)
    turned = np.roll(vectors, 1, axis=0)
    assert vector_agreement(vectors, vectors).holds
    assert not vector_agreement(vectors, turned).holds
    assert not vector_agreement(vectors, vectors * np.float32(np.nan)).holds
