"""How far a step is. Steps report to a ``Progress``; the commands show it, tests count it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a step tells while it runs. Calls come from one thread."""

    def begin(self, what: str, total: int | None = None, unit: str = "") -> None:
        """A part begins, such as "reading documents". ``total`` is its size in units; None where not known."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """``count`` more units are done; ``note`` is a short figure to show, such as "loss 0.41"."""

    def say(self, text: str) -> None:
        """A line that stays."""


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int | None = None, unit: str = "") -> None:
        """See ``Progress``."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """See ``Progress``."""

    def say(self, text: str) -> None:
        """See ``Progress``."""
