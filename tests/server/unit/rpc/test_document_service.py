"""What the service itself decides about documents that failed; the e2e tests have the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shortlist.v1 import document_pb2
from shortlist.v1 import document_service_pb2 as pb
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, Unavailable
from shortlist_server.inference.catalog import load_models
from shortlist_server.observe.observer import Observer
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.pipeline.ingester import Ingester
from shortlist_server.pipeline.operations import Operation
from shortlist_server.pipeline.windows import WINDOW_TOKENS
from shortlist_server.rpc.document_service import DocumentServicer
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.store import EmbeddedStore

CONTEXT: Any = None

IDS = [f"d{number}" for number in range(1, 7)]


async def failures() -> AsyncIterator[Sequence[Operation]]:
    """Refused operations whose documents can be taken later, each of a window's size."""
    text = "word " * (WINDOW_TOKENS * 4 // 5)
    for position, id in enumerate(IDS, 1):
        payload = document_pb2.Document(id=id, text=text).SerializeToString
        yield [Operation(position=position, id=id, change=InvalidArgument("not now"), cost=1, payload=payload)]


async def test_a_retry_that_the_servers_end_cuts_short_forgets_only_what_it_tried(tmp_path: Path) -> None:
    committing, go_on = threading.Event(), threading.Event()
    go_on.set()

    def crash_point(point: str) -> None:
        if point == "commit:before" and not go_on.is_set():
            committing.set()
            assert go_on.wait(30)

    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), EmbeddedStore(config, crash_point=crash_point)
    with ThreadPoolExecutor(4) as threads:
        create_collection(store, models, NewCollection(name="docs"))
        ingester = Ingester(store, models, threads)
        servicer = DocumentServicer(store, ingester, threads, config, Observer())
        session = await ingester.open("docs", stream="", dry_run=False)
        _ = [acks async for acks in session.run(failures())]
        ingester.close(session)
        kept, _ = session.collection.dead_letters(0, 100)
        request = pb.RetryDeadLettersRequest(collection="docs", numbers=[failure.number for failure in kept])
        go_on.clear()
        retry = asyncio.ensure_future(servicer.RetryDeadLetters(request, CONTEXT))
        await asyncio.to_thread(committing.wait, 30)
        ingester.drain()
        go_on.set()
        with pytest.raises(Unavailable, match="not tried"):
            await retry
        left = {failure.id for failure in session.collection.dead_letters(0, 100)[0]}
        assert isinstance(session.collection, EmbeddedCollection)
        taken = set(session.collection.keys(IDS))
    store.close()
    models.close()
    assert taken and left
    assert sorted([*taken, *left]) == IDS
