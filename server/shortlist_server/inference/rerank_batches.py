"""Runs a reranker's candidates in batches, best candidates first, until done or told to stop.

Batches follow the candidates' own order, so an answer cut short by the deadline covers the best of them. A batch too
large for the memory is halved, and so are later ones. One thread at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.inference.base import MayContinue, RerankScores

Floats = NDArray[np.float32]

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 2048
_BATCH_ITEMS = 16
_SHORT_PAIR_TOKENS = 64
_RATE_WEIGHT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Raw scores and probabilities of a batch, each of shape (n,)."""

    raw: Floats
    probability: Floats


class Batches:
    """Scores candidates in batches, and learns from each how fast the model is and how much fits into memory.

    Args:
        seconds_per_token: a first guess at the speed.
        batch_tokens: largest padded batch, in tokens; 0 for the size that suits a CPU.
    """

    def __init__(self, *, seconds_per_token: float, batch_tokens: int = 0) -> None:
        self._seconds_per_token = seconds_per_token
        self._tokens = batch_tokens or _BATCH_TOKENS
        self._items = max(batch_tokens // _SHORT_PAIR_TOKENS, _BATCH_ITEMS)

    def score(
        self,
        lengths: Sequence[int],
        truncated: Sequence[int],
        run: Callable[[Sequence[int]], Scored],
        may_continue: MayContinue,
    ) -> RerankScores:
        """Scores of the candidates that were reached in time.

        Args:
            lengths: tokens of each candidate as the model reads it.
            truncated: tokens of each candidate that were cut off.
            run: scores the candidates with the given indexes.

        Raises:
            Exception: whatever ``run`` raises, except a lack of memory on a batch of several candidates.
        """
        scored: list[Scored] = []
        done = 0
        while done < len(lengths):
            rows = self._next_batch(lengths, done)
            padded = len(rows) * max(lengths[row] for row in rows)
            if not may_continue(padded * self._seconds_per_token):
                break
            started = time.monotonic()
            found = self._run(rows, run)
            if found is None:
                continue
            measured = (time.monotonic() - started) / padded
            self._seconds_per_token += _RATE_WEIGHT * (measured - self._seconds_per_token)
            scored.append(found)
            done += len(rows)
        nothing = np.empty(0, dtype=np.float32)
        return RerankScores(
            scores=np.concatenate([nothing, *(one.raw for one in scored)]),
            probabilities=np.concatenate([nothing, *(one.probability for one in scored)]),
            truncated_tokens=np.array(truncated[:done], dtype=np.int32),
            tokens=sum(lengths[:done]),
        )

    def _run(self, rows: range, run: Callable[[Sequence[int]], Scored]) -> Scored | None:
        """The batch's scores; None if it ran out of memory, after which batches are smaller."""
        try:
            return run(rows)
        except Exception as error:
            if len(rows) == 1 or not is_out_of_memory(error):
                raise
        # After the handler, because inside it the exception still holds the failed pass and all its tensors.
        self._items = len(rows) // 2
        logger.warning(
            "a batch of %d candidates ran out of memory: batches have at most %d from now on", len(rows), self._items
        )
        return None

    def _next_batch(self, lengths: Sequence[int], start: int) -> range:
        """The next candidates that fit one batch when padded to the longest; at least one."""
        longest = 0
        end = start
        while end < len(lengths) and end - start < self._items:
            longest = max(longest, lengths[end])
            if end > start and longest * (end - start + 1) > self._tokens:
                break
            end += 1
        return range(start, end)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a model ran out of memory, by the errors of torch on GPU and CPU, ONNX Runtime and Python."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return any(part in text for part in ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation"))
