"""How fast a build has been lately. One thread adds steps; any thread asks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 60.0

_STALLED = 2.0
"""A step that takes this many times as long as the others counts before its end, because the build may stand still."""


@dataclass(frozen=True, slots=True)
class _Step:
    seconds: float
    documents: int = 0
    tokens: int = 0


class Rates:
    """Documents and tokens per second over the last minute, or over the last step where that is longer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The first step only says when the second began.
        self._steps: deque[_Step] = deque([_Step(clock())])

    def add(self, documents: int, tokens: int) -> None:
        """So much was done just now."""
        now = self._clock()
        self._steps.append(_Step(now, documents, tokens))
        while len(self._steps) > 2 and self._steps[1].seconds < now - WINDOW_SECONDS:
            self._steps.popleft()

    def begin(self) -> None:
        """The build goes on after a pause, which does not count."""
        self._steps = deque([_Step(self._clock())])

    def now(self) -> tuple[float, float]:
        """Documents and tokens per second. Between two steps they stay as they are."""
        now = self._clock()
        first, *steps = list(self._steps)
        while len(steps) > 1 and steps[0].seconds < now - WINDOW_SECONDS:
            first = steps.pop(0)
        if not steps:
            return 0.0, 0.0
        seconds = steps[-1].seconds - first.seconds
        if now - steps[-1].seconds > _STALLED * seconds / len(steps):
            seconds = now - first.seconds
        seconds = max(seconds, 1e-3)
        return sum(step.documents for step in steps) / seconds, sum(step.tokens for step in steps) / seconds
