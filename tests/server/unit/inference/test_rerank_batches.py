"""Candidates are scored in order, in batches that fit the time and the memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from shortlist_server.inference.rerank_batches import Batches, Scored, is_out_of_memory


class Card:
    """Scores candidate n as n, and has memory for so many at once."""

    def __init__(self, most: int = 10**6, error: type[Exception] = MemoryError) -> None:
        self.batches: list[int] = []
        self._most = most
        self._error = error

    def run(self, rows: Sequence[int]) -> Scored:
        self.batches.append(len(rows))
        if len(rows) > self._most:
            raise self._error("CUDA out of memory")
        values = np.array(rows, dtype=np.float32)
        return Scored(raw=values, probability=values / np.float32(1000))


def score(batches: Batches, card: Card, lengths: Sequence[int]) -> list[float]:
    scores = batches.score(lengths, [0] * len(lengths), card.run, lambda _: True)
    assert scores.probabilities is not None
    assert np.allclose(scores.probabilities, scores.scores / 1000)
    assert scores.tokens == sum(lengths)
    return [float(one) for one in scores.scores]


def test_batches_hold_sixteen_candidates_or_their_tokens() -> None:
    card = Card()
    assert score(Batches(seconds_per_token=0), card, [10] * 40 + [1000] * 3) == [*range(43)]
    assert card.batches == [16, 16, 8, 2, 1]


def test_a_card_with_memory_takes_more_at_once() -> None:
    card = Card()
    score(Batches(seconds_per_token=0, batch_tokens=32_768), card, [100] * 500)
    assert card.batches == [327, 173]


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_batch_too_large_for_the_memory_is_halved_and_later_ones_stay_small(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    batches, card = Batches(seconds_per_token=0), Card(most=5, error=error)
    with caplog.at_level(logging.WARNING):
        assert score(batches, card, [10] * 20) == [*range(20)]
    assert card.batches == [16, 8, 4, 4, 4, 4, 4]
    assert len(caplog.records) == 2
    card.batches.clear()
    score(batches, card, [10] * 8)
    assert card.batches == [4, 4]


def test_one_candidate_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(MemoryError):
        score(Batches(seconds_per_token=0), Card(most=0), [10] * 4)


def test_another_error_is_not_tried_again() -> None:
    card = Card()

    def run(rows: Sequence[int]) -> Scored:
        card.run(rows)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Batches(seconds_per_token=0).score([10] * 4, [0] * 4, run, lambda _: True)
    assert card.batches == [4]


def test_what_the_libraries_raise_is_known() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(RuntimeError("Non-zero status code returned: std::bad_alloc"))
    assert not is_out_of_memory(RuntimeError("index out of range"))
