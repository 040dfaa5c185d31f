"""Both clients' ingest while the server goes and comes back; ``tests/crash`` does it with kills and a bad network."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import shortlist
from shortlist import Document
from shortlist_server.testing import TestServer


def documents(count: int) -> list[Document]:
    return [Document(id=f"d{n}", text=f"text number {n} " * 50) for n in range(count)]


@pytest.fixture
async def coming_and_going(tmp_path: Path) -> AsyncIterator[TestServer]:
    """A server on a port that stays the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = TestServer(tmp_path / "data", port=port)
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


async def test_a_server_that_restarts_is_waited_for(coming_and_going: TestServer, connect: Any) -> None:
    server = coming_and_going
    client = connect(server.target)
    await client.create_collection("books")
    run = client.ingest("books", documents(3000))
    acks = []
    async for ack in run:
        acks.append(ack)
        if ack.index == 500:
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
    assert [ack.index for ack in acks] == list(range(3000))
    assert {str(ack.status) for ack in acks} <= {"durable", "replayed"}
    assert run.summary.reconnects >= 1
    assert await client.count("books") == 3000
    assert (await client.get_collection("books")).sequence == 3000


async def test_a_server_that_stays_away_is_given_up_and_the_run_resumed(
    coming_and_going: TestServer, connect: Any
) -> None:
    server = coming_and_going
    client = connect(server.target)
    await client.create_collection("books")
    run = client.ingest("books", documents(3000), stream="daily", reconnect_seconds=0.5)
    with pytest.raises(shortlist.IngestInterrupted) as caught:
        async for ack in run:
            if ack.index == 500:
                await asyncio.to_thread(server.stop)
    assert caught.value.retryable
    assert not caught.value.summary.complete
    assert caught.value.__cause__ is not None
    await asyncio.to_thread(server.start)
    summary = await client.ingest("books", documents(3000), stream="daily", resume=True).finish()
    assert summary.skipped + summary.durable == 3000
    assert summary.skipped > 500
    assert await client.count("books") == 3000


async def test_a_server_that_was_never_there_is_said_soon(connect: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = connect(f"127.0.0.1:{free.getsockname()[1]}", timeout_seconds=0.5)
        begun = time.monotonic()
        with pytest.raises(shortlist.ServerUnavailable):
            await client.ingest("books", documents(1)).finish()
        assert time.monotonic() - begun < 5


async def test_a_server_that_does_not_open_the_stream_is_given_up(connect: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = connect(f"127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.3)
        with pytest.raises((shortlist.DeadlineExceeded, shortlist.ServerUnavailable)):
            await client.ingest("books", documents(1)).finish()


async def test_data_that_was_replaced_behind_the_stream_is_noticed(
    coming_and_going: TestServer, connect: Any, tmp_path: Path
) -> None:
    server = coming_and_going
    client = connect(server.target)
    await client.create_collection("books")
    run = client.ingest("books", documents(3000))
    with pytest.raises(shortlist.StreamLost):
        async for ack in run:
            if ack.index == 500:
                await asyncio.to_thread(server.stop)
                server.data_dir.rename(tmp_path / "gone")
                await asyncio.to_thread(server.start)
                other = connect(server.target)
                await other.create_collection("books")


async def test_closing_the_client_ends_its_ingest(target: str, connect: Any) -> None:
    client, other = connect(), connect()
    await other.create_collection("closing")
    run = client.ingest("closing", documents(3000))
    with pytest.raises(shortlist.ClientClosed):
        async for ack in run:
            if ack.index == 10:
                await client.close()
    await other.delete_collection("closing")
