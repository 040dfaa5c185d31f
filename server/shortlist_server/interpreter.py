"""One turn at the interpreter for threads that work on much, so that the event loop gets its own.

Reading, checking, converting and serialising megabytes keeps the interpreter's lock most of the time. Threads that do
so beside each other gain nothing, and the event loop loses: Python takes the lock from a busy thread only if no other
thread has taken it within a switch interval. Two busy threads take it from each other again and again, and a health
check waited 50 ms at each of its steps. With turns, one thread is busy at a time, and it waits until the event loop has
gone once round before each large step.

A turn is short, and whoever has it takes no other lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LARGE_BYTES = 64 * 1024
"""From this size on, a step is large."""

GIVE_WAY_SECONDS = 0.1
"""Longest wait for the event loop, which may be held up for another reason."""

turn = threading.Lock()
"""Held by the thread whose turn it is."""

_loop: asyncio.AbstractEventLoop | None = None


def give_way_to(loop: asyncio.AbstractEventLoop) -> None:
    """Lets this event loop go first from now on; it replaces a former one."""
    global _loop  # noqa: PLW0603
    _loop = loop


def give_way() -> None:
    """Waits until the event loop has gone once round. Not for the event loop's own thread."""
    if _loop is None:
        return
    gone_round = threading.Event()
    try:
        _loop.call_soon_threadsafe(gone_round.set)
    except RuntimeError:
        return  # It is closed.
    gone_round.wait(GIVE_WAY_SECONDS)


def alone(function: Callable[[], T]) -> T:
    """Calls a function in a turn."""
    with turn:
        give_way()
        return function()


class TurnOnceLarge:
    """A turn for the rest of a ``with`` block, taken when the block first meets something large."""

    def __init__(self) -> None:
        self._held = False

    def __enter__(self) -> TurnOnceLarge:
        return self

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            turn.release()

    def met(self, size: int) -> None:
        """Notes that the block works on something of so many bytes, and gives way if that is large."""
        if size < LARGE_BYTES:
            return
        if not self._held:
            turn.acquire()
            self._held = True
        give_way()
