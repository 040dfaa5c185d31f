"""Runs a reranker's candidates in batches, best candidates first, until done or told to stop.

Batches are slices of the candidates' own order, so that an answer cut short by the deadline has the best of them. A
pure function but for the clock; any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.inference.base import MayGoOn, RerankScores

Floats = NDArray[np.float32]

_BATCH_TOKENS = 2048
_BATCH_ITEMS = 16
_RATE_WEIGHT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Raw scores and probabilities of a batch, each of shape (n,)."""

    raw: Floats
    probability: Floats


def score_in_batches(
    lengths: Sequence[int],
    truncated: Sequence[int],
    run: Callable[[Sequence[int]], Scored],
    may_go_on: MayGoOn,
    seconds_per_token: float,
) -> tuple[RerankScores, float]:
    """Scores of the candidates that were reached, and the speed measured.

    Args:
        lengths: tokens of each candidate as the model reads it.
        truncated: tokens of each that it does not see.
        run: scores the candidates of the given indexes.
        seconds_per_token: the speed as known so far.
    """
    raw: list[Floats] = []
    probability: list[Floats] = []
    done = 0
    while done < len(lengths):
        rows = _next_batch(lengths, done)
        padded = len(rows) * max(lengths[row] for row in rows)
        if not may_go_on(padded * seconds_per_token):
            break
        started = time.monotonic()
        scored = run(rows)
        measured = (time.monotonic() - started) / padded
        seconds_per_token += _RATE_WEIGHT * (measured - seconds_per_token)
        raw.append(scored.raw)
        probability.append(scored.probability)
        done += len(rows)
    nothing = np.empty(0, dtype=np.float32)
    scores = RerankScores(
        scores=np.concatenate(raw) if raw else nothing,
        probabilities=np.concatenate(probability) if probability else nothing,
        truncated_tokens=np.array(truncated[:done], dtype=np.int32),
        tokens=sum(lengths[:done]),
    )
    return scores, seconds_per_token


def _next_batch(lengths: Sequence[int], start: int) -> range:
    """The next candidates in order that fit one batch when padded to the longest; at least one."""
    longest = 0
    end = start
    while end < len(lengths) and end - start < _BATCH_ITEMS:
        longest = max(longest, lengths[end])
        if end > start and longest * (end - start + 1) > _BATCH_TOKENS:
            break
        end += 1
    return range(start, end)
