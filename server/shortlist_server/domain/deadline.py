"""The time until which a caller waits."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock; ``math.inf`` for none."""

    at: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        """The deadline ``seconds`` from now."""
        return Deadline(time.monotonic() + seconds)

    def left_seconds(self) -> float:
        """Seconds left; negative once the deadline has passed."""
        return self.at - time.monotonic()

    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left_seconds() <= 0
