"""Generations that writes leave out for a while, because their model failed.

Only the serving generation can fail a write. Where the model of another one fails, its passages are left out; its
build makes them up later. So that a model that is gone does not slow down every window, writes leave the generation out
for some seconds, and longer each time that it fails again. Belongs to the event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from shortlist_server.errors import ShortlistError

logger = logging.getLogger(__name__)

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
"""How long writes leave a generation out after the first failure, and at most."""


@dataclass(frozen=True, slots=True)
class _Setback:
    until: float
    seconds: float


class Setbacks:
    """What failed lately, by collection and generation."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, int], _Setback] = {}
        self._told: Callable[[str], None] = lambda _: None

    def tell(self, told: Callable[[str], None]) -> None:
        """Has a function called with the name of each collection where a generation lags. It must not block."""
        self._told = told

    def lags(self, collection: str) -> None:
        """Notes that a generation lacks a document that its model could not read, though the model works."""
        self._told(collection)

    def note(self, collection: str, number: int, error: ShortlistError) -> None:
        """Notes that writes had to leave a generation out."""
        before = self._now.get((collection, number))
        if before is not None and time.monotonic() < before.until:
            return  # Several windows are under way, and fail for one reason.
        if before is None:
            logger.warning(
                "collection '%s': writes leave out generation %d, which its build makes up: %s",
                collection,
                number,
                error.message,
            )
        seconds = FIRST_SECONDS if before is None else min(2 * before.seconds, LONGEST_SECONDS)
        self._now[collection, number] = _Setback(time.monotonic() + seconds, seconds)
        self._told(collection)

    def leaves_out(self, collection: str, number: int) -> bool:
        """Whether writes should leave a generation out now, without asking its model."""
        setback = self._now.get((collection, number))
        return setback is not None and time.monotonic() < setback.until

    def over(self, collection: str, number: int) -> None:
        """The model works again."""
        if self._now.pop((collection, number), None) is not None:
            logger.info("collection '%s': writes take generation %d along again", collection, number)
