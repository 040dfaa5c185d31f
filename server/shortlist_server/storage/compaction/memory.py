"""Memory that was freed and is still held: the C allocator's, given back to the system.

A dropped segment frees blocks of all sizes, between others that live on. glibc keeps them for later and the process
stays as large as it ever was: after 100,000 passages in segments that were merged, 394 MB instead of 298. Any
thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Gives free memory back to the system; does nothing where the allocator is not glibc's. Some milliseconds."""
    trim = _trimmer()
    if trim is not None:
        trim(0)


class Rarely:
    """Gives memory back in a thread now and then, where much of it is taken and freed all the time.

    Messages of megabytes that come and go leave the process larger by several times their sum. Belongs to one event
    loop.
    """

    def __init__(self, interval_seconds: float = 1.0) -> None:
        self._interval_seconds = interval_seconds
        self._timer: asyncio.TimerHandle | None = None

    def freed(self) -> None:
        """Much was freed, or is about to be."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_seconds, self._give_back)

    def _give_back(self) -> None:
        self._timer = None
        asyncio.get_running_loop().run_in_executor(None, give_back)


@functools.cache
def _trimmer() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim
