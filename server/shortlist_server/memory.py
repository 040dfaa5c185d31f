"""Returns memory that the C allocator keeps after it was freed to the system.

A dropped segment frees blocks of all sizes between others that stay in use. glibc keeps the freed blocks, so the
process stays at its largest size: 394 MB instead of 298 after 100,000 passages in segments that were merged. Any
thread may call ``give_back``.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Gives free memory back to the system, within milliseconds; does nothing if the allocator is not glibc's."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


class Trimmer:
    """Gives memory back in a thread, at most once per interval, for code that takes and frees much of it all the time.

    Messages of megabytes that come and go leave the process larger by several times their sum. Belongs to one event
    loop.
    """

    def __init__(self, interval_seconds: float = 1.0) -> None:
        self._interval_seconds = interval_seconds
        self._timer: asyncio.TimerHandle | None = None

    def freed(self) -> None:
        """Notes that much memory was freed, or is about to be."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_seconds, self._give_back)

    def _give_back(self) -> None:
        self._timer = None
        asyncio.get_running_loop().run_in_executor(None, give_back)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim
