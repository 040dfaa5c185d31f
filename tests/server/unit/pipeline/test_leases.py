"""Leases for coroutines: nothing waits for what is open, and nothing is kept open for a caller that is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig
from shortlist_server.errors import CollectionNotFound
from shortlist_server.pipeline.leases import leased
from shortlist_server.storage.store import EmbeddedStore

CONFIG = CollectionConfig(
    embedder="none",
    embedder_revision="",
    dimension=2,
    reranker="none",
    chunking=Chunking(max_tokens=16, overlap_tokens=0),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    made = EmbeddedStore(Config(data_dir=tmp_path), maintain=False)
    made.create("a", CONFIG)
    yield made
    made.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def is_used(store: EmbeddedStore) -> bool:
    return not store.find("a")._lifecycle.close_unused(even_busy=True)


async def test_an_open_collection_takes_no_turn_in_a_thread(store: EmbeddedStore, threads: ThreadPoolExecutor) -> None:
    held = threading.Event()
    threads.submit(held.wait, 30)
    async with asyncio.timeout(10), leased(store, "a", threads) as collection:
        assert collection.is_open
        assert is_used(store)
    held.set()
    assert not is_used(store)


async def test_a_closed_collection_is_opened_in_a_thread(store: EmbeddedStore, threads: ThreadPoolExecutor) -> None:
    assert not is_used(store)
    async with leased(store, "a", threads) as collection:
        assert collection.is_open
    with pytest.raises(CollectionNotFound):
        async with leased(store, "absent", threads):
            pass


async def test_a_caller_that_goes_while_a_collection_is_opened_leaves_no_lease(
    store: EmbeddedStore, threads: ThreadPoolExecutor
) -> None:
    assert not is_used(store)
    held = threading.Event()
    threads.submit(held.wait, 30)

    async def use() -> None:
        async with leased(store, "a", threads):
            raise AssertionError("nobody waits for this any more")

    caller = asyncio.create_task(use())
    await asyncio.sleep(0)  # It waits for the thread now.
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    held.set()
    async with asyncio.timeout(30):
        while not store.find("a").is_open or is_used(store):
            await asyncio.sleep(0.001)
