"""Inspects each collection of a store once, slowly, so damage is logged before anybody needs the collection.

Stores with too many collections to open at the start use it instead. Any thread may begin a survey.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress

from shortlist_server.errors import ShortlistError
from shortlist_server.storage.clock import Clock

PAUSE = 200
"""The pause between two collections, as a multiple of the time the last one took: half a percent of a core."""


def begin_survey(names: Sequence[str], look: Callable[[str], object], *, clock: Clock, threads: Executor) -> None:
    """Calls ``look`` with each name, on one of ``threads``, until the clock is closed. Never blocks.

    Ignores a ``ShortlistError`` of ``look``, which itself notes what is wrong with a collection.
    """
    left = iter(names)

    def look_at_next() -> None:
        name = next(left, None)
        if name is None:
            return
        begin = time.monotonic()
        with suppress(ShortlistError):
            look(name)
        clock.after(PAUSE * (time.monotonic() - begin), lambda: threads.submit(look_at_next))

    threads.submit(look_at_next)
