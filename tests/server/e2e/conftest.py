"""A server whose work can be held at a chosen point."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import Client, CollectionConfig, Document
from shortlist_server.operations.operation import State
from shortlist_server.testing import TestServer, server


class Gate:
    """A crash point at which the work of a store waits until it is let through."""

    def __init__(self, point: str) -> None:
        self.point = point
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, point: str) -> None:
        if point == self.point:
            self.reached.set()
            assert self.opened.wait(60)


@contextlib.contextmanager
def held(running: TestServer, point: str) -> Iterator[Gate]:
    """Holds the store's work at a point for the time of a block."""
    store, gate = running._server._store, Gate(point)
    before, store._crash_point = store._crash_point, gate
    try:
        yield gate
    finally:
        gate.opened.set()
        store._crash_point = before


def open_when_cancelling(running: TestServer, gate: Gate) -> None:
    """Lets the work through as soon as its operation was told to stop; returns at once."""
    operations = running._server._operations

    def wait() -> None:
        while not gate.opened.wait(0.01):
            if any(one.state is State.CANCELLING for one in operations.all()):
                gate.opened.set()

    threading.Thread(target=wait).start()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[TestServer]:
    """A server with the collection "notes" of three vectors."""
    with server(tmp_path / "data", max_operations=6) as running:
        with Client(running.target) as client:
            client.create_collection("notes", CollectionConfig(embedder="none", dimension=2))
            client.ingest("notes", [Document(id=f"n{i}", vector=[1.0, float(i)]) for i in range(3)]).finish()
        yield running


@pytest.fixture
def client(running: TestServer) -> Iterator[Client]:
    with Client(running.target) as client:
        yield client
