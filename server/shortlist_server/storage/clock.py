"""One thread that calls functions at their due times, shared by all collections of a store.

An alarm's function must return at once, so it only hands work to an executor. Any thread may call any method.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Alarm:
    """A call that is due later."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], object]) -> None:
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        """Prevents the call, unless it has begun. Idempotent."""
        self.function = None


class Clock:
    """The thread and its alarms."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)
        self._thread.start()

    def after(self, seconds: float, function: Callable[[], object]) -> Alarm:
        """Calls ``function`` after ``seconds``, unless the clock is closed or the alarm cancelled first."""
        alarm = Alarm(function)
        with self._changed:
            heapq.heappush(self._alarms, (time.monotonic() + seconds, next(self._numbers), alarm))
            if self._alarms[0][2] is alarm:
                self._changed.notify()
        return alarm

    def close(self) -> None:
        """Ends the thread and drops the alarms that are not due yet. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._alarms or self._alarms[0][0] > time.monotonic()):
                    self._changed.wait(self._alarms[0][0] - time.monotonic() if self._alarms else None)
                if self._closed:
                    return
                function = heapq.heappop(self._alarms)[2].function
            if function is None:
                continue
            try:
                function()
            except Exception:
                # One collection's error must not stop the clock for the others.
                logger.exception("an alarm failed")
