"""Stops long SQLite statements when work is cancelled."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from shortlist_server.domain import Cancellation

_CHECKED_STEPS = 100_000
"""Steps of SQLite between two looks at the cancellation: some milliseconds. A look takes the interpreter's lock."""


@contextmanager
def interruptible(connection: sqlite3.Connection, cancellation: Cancellation) -> Iterator[None]:
    """Lets a cancellation interrupt the statements of the block.

    The connection must stay open for the block. An interrupted transaction is to be ended by the block, as any other.

    Raises:
        OperationCancelled: the work was cancelled.
    """
    # SQLite forgets an interrupt that comes between two statements; what is checked regularly is never missed.
    connection.set_progress_handler(lambda: cancellation.cancelled, _CHECKED_STEPS)
    try:
        with cancellation.calling(connection.interrupt):
            yield
    except sqlite3.OperationalError:
        cancellation.check()
        raise
    finally:
        connection.set_progress_handler(None, 0)
