"""Both clients behind one face, so that each test is written once and runs for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from shortlist import AsyncClient, Client, CollectionConfig

LISTS = ("list", "list_collections", "list_backups", "list_dead_letters", "list_operations")


class Awaiting:
    """A blocking object with the face of its asyncio twin; every call runs in a thread."""

    def __init__(self, blocking: Any) -> None:
        self.blocking = blocking

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.blocking, name)
        if not callable(value):
            return value
        # What returns an iterator returns at once, in both clients.
        if name in (*LISTS, "ingest", "pages"):
            return lambda *args, **kwargs: Awaiting(value(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(value, *args, **kwargs)

        return call

    async def __aiter__(self) -> AsyncIterator[Any]:
        items = iter(self.blocking)
        end = object()
        while (item := await asyncio.to_thread(next, items, end)) is not end:
            yield item

    async def __aenter__(self) -> Awaiting:
        await asyncio.to_thread(self.blocking.__enter__)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await asyncio.to_thread(self.blocking.__exit__, *error)


Connect = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest, target: str) -> AsyncIterator[Connect]:
    """Makes clients of one kind; they are closed at the end."""
    clients: list[Any] = []

    def make(address: str = target, **settings: Any) -> Any:
        client: Any = (
            Awaiting(Client(address, **settings)) if request.param == "sync" else AsyncClient(address, **settings)
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
async def client(connect: Connect) -> Any:
    """A client of the module's server."""
    return connect()


@pytest.fixture
async def collection(client: Any, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """An empty collection of the test's own."""
    name = f"c{abs(hash(request.node.nodeid)) % 10**12}"
    await client.create_collection(name, CollectionConfig(filterable_fields=("year",)))
    yield name
    await client.delete_collection(name)
