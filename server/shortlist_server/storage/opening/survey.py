"""A look at each collection of a store, once and slowly, so that damage is logged before somebody needs the collection.

It is for stores that have too many collections to open them all at the start. Any thread may begin one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress

from shortlist_server.errors import ShortlistError
from shortlist_server.storage.clock import Clock

PAUSE = 200
"""Times as long as a look at a collection took until the next one: half a percent of a core."""


def begin_survey(names: Sequence[str], look: Callable[[str], object], *, clock: Clock, threads: Executor) -> None:
    """Calls ``look`` with each name, on one of ``threads``, until the clock is closed. Never blocks.

    What ``look`` raises is passed over: whoever looks at a collection also notes what is wrong with it.
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
