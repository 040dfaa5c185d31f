"""Candidates are scored in batches that fit the time and the memory, and hold texts of like length."""

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
    assert card.batches == [1, 1, 1, 16, 16, 8]


def test_with_time_for_all_a_batch_has_texts_of_like_length() -> None:
    runs: list[list[int]] = []

    def run(rows: Sequence[int]) -> Scored:
        runs.append([lengths[row] for row in rows])
        values = np.array(rows, dtype=np.float32)
        return Scored(raw=values, probability=values)

    lengths = [20, 200, 28, 190, 26, 120, 25]
    scores = Batches(seconds_per_token=0).score(lengths, [1, 2, 3, 4, 5, 6, 7], run, lambda _: True)
    assert runs == [[200, 190], [120], [28, 26, 25], [20]]
    assert scores.scores.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert scores.truncated_tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_with_little_time_the_best_candidates_come_first() -> None:
    card, seconds = Card(), 1e-3
    left = 100 * seconds

    def may_continue(wanted: float) -> bool:
        nonlocal left
        if wanted <= left:
            left -= wanted
            return True
        return False

    scores = Batches(seconds_per_token=seconds, batch_tokens=0).score(
        [100] + [2000] * 3, [0] * 4, card.run, may_continue
    )
    assert scores.scores.tolist() == [0]
    assert scores.tokens == 100


def test_an_answer_cut_short_has_no_gaps() -> None:
    asked: list[float] = []

    def may_continue(wanted: float) -> bool:
        asked.append(wanted)
        return len(asked) < 4

    card = Card()
    # By length, the batches are candidates 1, 2 and 0; time is over before the last.
    scores = Batches(seconds_per_token=0).score([10, 2000, 1200, 5], [0] * 4, card.run, may_continue)
    assert card.batches == [1, 1]
    assert scores.scores.tolist() == []
    assert scores.tokens == 3200


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
