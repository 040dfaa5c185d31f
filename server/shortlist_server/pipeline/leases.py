"""Leases of collections, for coroutines.

Opening a collection blocks, so it happens in a thread, and only when the collection is not open already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager

from shortlist_server.storage.base import CollectionStore, Lease, Store


@asynccontextmanager
async def leased(store: Store, name: str, threads: Executor) -> AsyncIterator[CollectionStore]:
    """A collection that stays open for the duration of a block.

    Raises:
        CollectionNotFound, DataCorrupted, NewerDataFormat, Overloaded, Unavailable: the collection cannot be opened.
    """
    with await lease(store, name, threads) as collection:
        yield collection


async def lease(store: Store, name: str, threads: Executor) -> Lease[CollectionStore]:
    """The same, as a lease that the caller releases."""
    found = store.try_lease(name)
    if found is not None:
        return found
    opening = asyncio.get_running_loop().run_in_executor(threads, store.lease, name)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # The thread goes on, and no caller is left to release its lease.
        opening.add_done_callback(_release)
        raise


def _release(opening: asyncio.Future[Lease[CollectionStore]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().release()
