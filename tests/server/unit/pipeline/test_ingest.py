"""Sessions: of one named stream, one after the other; and what is left when one breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Document
from shortlist_server.errors import StreamConflict
from shortlist_server.inference.catalog import load_models
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.pipeline.ingest import IngestSession
from shortlist_server.pipeline.ingester import Ingester
from shortlist_server.pipeline.operations import AckStatus, Operation
from shortlist_server.pipeline.windows import WINDOW_TOKENS
from shortlist_server.storage.store import EmbeddedStore


class Gate:
    """A crash point at which commits can be held."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def __call__(self, point: str) -> None:
        if point == "commit:before" and not self.open.is_set():
            self.held.set()
            assert self.open.wait(30)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def ingester(tmp_path: Path, gate: Gate) -> Iterator[Ingester]:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), EmbeddedStore(config, crash_point=gate)
    with ThreadPoolExecutor(4) as threads:
        create_collection(store, models, NewCollection(name="docs"))
        yield Ingester(store, models, threads)
    gate.open.set()
    store.close()
    models.close()


async def messages(*texts: str, cost: int = 1) -> AsyncIterator[Sequence[Operation]]:
    yield [
        Operation(position=i, id=f"d{i}", change=Document(id=f"d{i}", text=text), cost=cost)
        for i, text in enumerate(texts, 1)
    ]
    await asyncio.Event().wait()


async def test_a_stream_that_comes_back_waits_for_the_commit_its_last_session_left_under_way(
    ingester: Ingester, gate: Gate
) -> None:
    session = await ingester.open("docs", stream="s", dry_run=False)
    gate.open.clear()
    run = session.run(messages("one", "two"))
    first = asyncio.ensure_future(anext(run))
    await asyncio.to_thread(gate.held.wait, 30)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert isinstance(run, AsyncGenerator)
    await run.aclose()
    ingester.close(session)
    opening = asyncio.create_task(ingester.open("docs", stream="s", dry_run=False))
    # Nothing may happen: the session waits for the commit.
    await asyncio.sleep(0.2)
    assert not opening.done()
    gate.open.set()
    again = await opening
    assert again.durable_position == 2
    run = again.run(messages("one", "two"))
    assert [ack.status for ack in await anext(run)] == [AckStatus.REPLAYED, AckStatus.REPLAYED]
    assert isinstance(run, AsyncGenerator)
    await run.aclose()
    ingester.close(again)


async def test_a_stream_is_taken_over_from_a_client_that_is_stuck_and_writes_no_more(
    ingester: Ingester,
) -> None:
    read = 0

    async def one_by_one() -> AsyncIterator[Sequence[Operation]]:
        nonlocal read
        for i in range(1, 6):
            read = i
            yield [Operation(position=i, id=f"d{i}", change=Document(id=f"d{i}", text="old"), cost=WINDOW_TOKENS)]

    stuck = await ingester.open("docs", stream="s", dry_run=False)
    run = stuck.run(one_by_one())
    await anext(run)
    # Its client takes nothing more: what comes next is embedded and waits.
    async with asyncio.timeout(30):
        while read < 3:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(5):
        new = await ingester.open("docs", stream="s", dry_run=False)
    assert new.durable_position == 1
    with pytest.raises(StreamConflict):
        await anext(run)
    assert new.collection.count(None) == 1
    assert new.collection.stream_position("s") == 1
    for session in (stuck, new):
        ingester.close(session)


async def test_of_clients_that_open_a_stream_at_once_only_the_last_that_came_has_it(ingester: Ingester) -> None:
    *older, newest = (asyncio.create_task(ingester.open("docs", stream="s", dry_run=False)) for _ in range(20))
    session = await newest
    for one in older:
        with pytest.raises(StreamConflict, match="another client opened"):
            await one
    run = session.run(messages("one"))
    assert [ack.status for ack in await anext(run)] == [AckStatus.DURABLE]
    assert isinstance(run, AsyncGenerator)
    await run.aclose()
    ingester.close(session)


async def test_a_client_that_lost_its_stream_while_its_connection_was_broken_does_not_take_it_back(
    ingester: Ingester,
) -> None:
    async def opened(run_id: str) -> IngestSession:
        return await ingester.open("docs", stream="s", dry_run=False, run_id=run_id)

    await opened("first")
    await opened("first")  # after a break
    second = await opened("second")
    with pytest.raises(StreamConflict, match="another client opened"):
        await opened("first")
    assert not second.ended
    again = await opened("second")
    assert second.ended
    # Who gives no id is a new client each time.
    for _ in range(2):
        nameless = await opened("")
    assert again.ended
    with pytest.raises(StreamConflict):
        await opened("second")
    assert not nameless.ended


async def test_a_stream_that_is_opened_while_the_server_leaves_is_told_to_resume_at_once(ingester: Ingester) -> None:
    ingester.drain()

    async def endless() -> AsyncIterator[Sequence[Operation]]:
        await asyncio.Event().wait()
        yield []

    late = await ingester.open("docs", stream="s", dry_run=False)
    async with asyncio.timeout(5):
        assert [acks async for acks in late.run(endless())] == []
    assert late.draining
    ingester.close(late)


async def test_a_stream_that_breaks_off_leaves_no_window_to_be_embedded(tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), EmbeddedStore(config)
    released = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        create_collection(store, models, NewCollection(name="docs"))
        ingester = Ingester(store, models, threads)
        session = await ingester.open("docs", stream="", dry_run=False)
        busy = threads.submit(released.wait, 30)
        others = asyncio.all_tasks()
        run = session.run(messages(*["text"] * 5, cost=WINDOW_TOKENS))
        first = asyncio.ensure_future(anext(run))
        async with asyncio.timeout(30):
            while len(asyncio.all_tasks() - others) <= 3:
                await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.wait({first})
        end = time.monotonic() + 10
        while (left := asyncio.all_tasks() - others) and time.monotonic() < end:
            await asyncio.sleep(0.001)
        released.set()
        assert busy.result()
    store.close()
    models.close()
    assert left == set()


async def test_what_reading_raises_ends_the_stream_after_what_came_before_it(ingester: Ingester) -> None:
    async def broken() -> AsyncIterator[Sequence[Operation]]:
        async for operations in messages("one", "two"):
            yield operations
            raise LookupError("a fault")

    session = await ingester.open("docs", stream="", dry_run=False)
    run = session.run(broken())
    assert [ack.status for ack in await anext(run)] == [AckStatus.DURABLE, AckStatus.DURABLE]
    with pytest.raises(LookupError):
        await anext(run)
    ingester.close(session)
