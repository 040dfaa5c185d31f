"""What asks for all collections does not fail for one that is dropped meanwhile."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shortlist.v1 import admin_service_pb2 as admin_pb
from shortlist.v1 import collection_service_pb2 as pb
from shortlist.v1 import operation_pb2
from shortlist_server.config import Config
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.inference.catalog import load_models
from shortlist_server.operations.operation import Control
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.rpc.collection_service import CollectionServicer
from shortlist_server.rpc.convert.operations import Result
from shortlist_server.rpc.works import Works
from shortlist_server.storage.store import EmbeddedStore

UNUSED: Any = None


async def listed(store: EmbeddedStore, threads: ThreadPoolExecutor, config: Config, models: ModelCatalog) -> list[str]:
    servicer = CollectionServicer(store, models, threads, config, UNUSED, UNUSED, UNUSED)
    answer = await servicer.ListCollections(pb.ListCollectionsRequest(), UNUSED)
    assert isinstance(answer, bytes)
    return [collection.name for collection in pb.ListCollectionsResponse.FromString(answer).collections]


async def verified(
    store: EmbeddedStore, threads: ThreadPoolExecutor, config: Config, models: ModelCatalog
) -> list[str]:
    work = Works(store, models, threads, 1, config.data_dir, UNUSED, UNUSED, UNUSED, config).verify(
        admin_pb.VerifyRequest()
    )
    result = await work.run(Control(lambda: None))
    assert isinstance(result, Result)
    return [report.collection for report in operation_pb2.VerifyResult.FromString(result.data).reports]


@pytest.mark.parametrize("ask", [listed, verified])
async def test_all_are_those_that_are_still_there(ask: Any, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), EmbeddedStore(config)
    for name in ("a", "b", "c"):
        create_collection(store, models, NewCollection(name=name))
    store.close()
    store = EmbeddedStore(config)
    with ThreadPoolExecutor(2) as threads:
        # Whoever opens b waits here until it is gone.
        with store._folders.naming("b"):
            answer = asyncio.ensure_future(ask(store, threads, config, models))
            async with asyncio.timeout(30):
                while not store.known():
                    await asyncio.sleep(0.001)
            store.drop("b")
        assert await answer == ["a", "c"]
    store.close()
    models.close()
