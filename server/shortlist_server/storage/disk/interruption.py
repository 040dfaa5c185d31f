"""Stops long SQLite statements when work is cancelled."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from shortlist_server.domain import Cancellation


@contextmanager
def interruptible(connection: sqlite3.Connection, cancellation: Cancellation) -> Iterator[None]:
    """Lets a cancellation interrupt the statements of the block.

    The connection must stay open for the block. An interrupted transaction is to be ended by the block, as any other.

    Raises:
        OperationCancelled: the work was cancelled.
    """
    try:
        with cancellation.calling(connection.interrupt):
            yield
    except sqlite3.OperationalError:
        cancellation.check()
        raise
