"""Generations that writes leave out for a while, because their model failed or was late.

Only the serving generation can fail a write. Where the model of another one fails, writes leave that generation out,
and its build adds what it lacks. Writes never try that model again, because each failure would delay one of them. The
build tries it, and gives the generation back to writes once the model works and the hold of the setback is over.

A setback that soon follows another one holds twice as long. One that made a write wait holds many times as long as that
wait. So a model that fails again and again costs writes only a small share of their time.

Belongs to the event loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from shortlist_server.errors import ShortlistError

logger = logging.getLogger(__name__)

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 600.0
"""How long the first setback holds, and the longest. A setback that comes later than that is a first one again."""

HOLD_PER_WAIT = 20.0
"""A setback holds at least this many times as long as a write waited, so it costs them a twentieth of their time."""

REMIND_SECONDS = 60.0
"""Time after which the build is told again, in case that it could not begin when it was told."""


@dataclass(slots=True)
class _Setback:
    seconds: float
    began: float
    told: float
    over: float | None = None


class Setbacks:
    """What failed lately, by collection and generation."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[str, int], _Setback] = {}
        self._told: Callable[[str], None] = lambda _: None

    def tell(self, told: Callable[[str], None]) -> None:
        """Registers a function that gets the name of each collection where a generation lags. It must not block."""
        self._told = told

    def lags(self, collection: str) -> None:
        """Notes that a generation lacks a document that its model could not read, though the model works."""
        self._told(collection)

    def note(self, collection: str, number: int, error: ShortlistError, *, waited_seconds: float = 0.0) -> None:
        """Notes that a write had to leave a generation out. From now on all do, until ``give_back``.

        Args:
            waited_seconds: how long the write waited for the generation alone.
        """
        now, before = self._clock(), self._known.get((collection, number))
        if before is not None and before.over is None:
            return  # Several windows are under way, and fail for one reason.
        seconds = FIRST_SECONDS
        if before is not None and before.over is not None and now - before.over < LONGEST_SECONDS:
            seconds = min(2 * before.seconds, LONGEST_SECONDS)
        seconds = max(seconds, HOLD_PER_WAIT * waited_seconds)
        logger.warning(
            "collection '%s': writes leave out generation %d, which its build makes up: %s",
            collection,
            number,
            error.message,
        )
        self._known[collection, number] = _Setback(seconds, began=now, told=now)
        self._told(collection)

    def forget(self, collection: str, number: int) -> None:
        """The generation serves now, or is gone; another collection may get its name and number."""
        self._known.pop((collection, number), None)

    def leaves_out(self, collection: str, number: int) -> bool:
        """Whether writes leave a generation out now, without asking its model."""
        setback = self._known.get((collection, number))
        return setback is not None and setback.over is None

    def left_out(self, collection: str, number: int) -> None:
        """A write has left the generation out again."""
        setback = self._known[collection, number]
        now = self._clock()
        if now - setback.told >= REMIND_SECONDS:
            setback.told = now
            self._told(collection)

    def holds(self, collection: str, number: int) -> bool:
        """Whether the generation is left out, and it is too early to give it back."""
        setback = self._known.get((collection, number))
        return setback is not None and setback.over is None and self._clock() < setback.began + setback.seconds

    def give_back(self, collection: str, number: int) -> None:
        """The model has worked just now: writes take the generation along again, unless the setback still holds."""
        setback = self._known.get((collection, number))
        if setback is not None and setback.over is None and not self.holds(collection, number):
            setback.over = self._clock()
            logger.info("collection '%s': writes take generation %d along again", collection, number)
