"""How fast a build has been lately. Belongs to one thread or event loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 60.0


class Rates:
    """Documents and tokens per second over the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._steps: deque[tuple[float, int, int]] = deque()

    def add(self, documents: int, tokens: int) -> None:
        """So much was done just now."""
        self._steps.append((self._clock(), documents, tokens))

    def begin(self) -> None:
        """The build goes on after a pause, which does not count."""
        self._began = self._clock()
        self._steps.clear()

    def now(self) -> tuple[float, float]:
        """Documents and tokens per second."""
        now = self._clock()
        while self._steps and self._steps[0][0] < now - WINDOW_SECONDS:
            self._steps.popleft()
        seconds = max(min(now - self._began, WINDOW_SECONDS), 1e-3)
        documents = sum(step[1] for step in self._steps)
        tokens = sum(step[2] for step in self._steps)
        return documents / seconds, tokens / seconds
