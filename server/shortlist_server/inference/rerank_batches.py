"""Runs a reranker's candidates in batches until done or told to stop.

While there is time for all candidates, batches have candidates of like length, because each is padded to its longest.
When time is short, batches follow the candidates' own order, so an answer cut short covers the best of them. A batch
too large for the memory is halved, and so are later ones. One thread at a time.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shortlist_server.inference.base import MayContinue, RerankScores

Floats = NDArray[np.float32]

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 512
"""Tokens of a batch on a CPU: its activations stay in the caches. Measured for a MiniLM in int8 over twenty passages:
150 ms of processor time, against 200 with 2,048 tokens."""

_BATCH_ITEMS = 16
_SHORT_PAIR_TOKENS = 64
_RATE_WEIGHT = 0.3

_AMPLE = 3
"""There is time for all candidates if they could take this many times as long as expected."""

_MOST_PADDED = 1.1
"""Most tokens of a batch with padding over those without, on a CPU. A GPU gains more from fewer batches."""


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
        self._most_padded = math.inf if batch_tokens else _MOST_PADDED

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
        order = list(range(len(lengths)))
        ample = may_continue(_AMPLE * sum(lengths) * self._seconds_per_token)
        if ample:
            # The longest first: a batch that does not fit the memory comes early.
            order.sort(key=lambda row: -lengths[row])
        raw, probability = np.full((2, len(lengths)), np.nan, dtype=np.float32)
        done = 0
        while done < len(order):
            rows = self._next_batch(lengths, order[done:], alike=ample)
            padded = len(rows) * max(lengths[row] for row in rows)
            if not may_continue(padded * self._seconds_per_token):
                break
            started = time.monotonic()
            found = self._run(rows, run)
            if found is None:
                continue
            measured = (time.monotonic() - started) / padded
            self._seconds_per_token += _RATE_WEIGHT * (measured - self._seconds_per_token)
            raw[rows], probability[rows] = found.raw, found.probability
            done += len(rows)
        # The answer is a list without gaps: what comes behind the first candidate without a score is left out.
        whole = min(order[done:], default=len(order))
        return RerankScores(
            scores=raw[:whole],
            probabilities=probability[:whole],
            truncated_tokens=np.array(truncated[:whole], dtype=np.int32),
            tokens=sum(lengths[row] for row in order[:done]),
        )

    def _run(self, rows: Sequence[int], run: Callable[[Sequence[int]], Scored]) -> Scored | None:
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

    def _next_batch(self, lengths: Sequence[int], rows: Sequence[int], *, alike: bool) -> list[int]:
        """The first of ``rows`` that fit one batch when padded to the longest, if ``alike`` with little padding; at
        least one.
        """
        longest = tokens = 0
        batch: list[int] = []
        for row in rows[: self._items]:
            longest, tokens = max(longest, lengths[row]), tokens + lengths[row]
            padded = longest * (len(batch) + 1)
            if batch and (padded > self._tokens or (alike and padded > self._most_padded * tokens)):
                break
            batch.append(row)
        return batch


def is_out_of_memory(error: Exception) -> bool:
    """Whether a model ran out of memory, by the errors of torch on GPU and CPU, ONNX Runtime and Python."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return any(part in text for part in ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation"))
