"""What the health of the models means for the services, and what the log says about them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shortlist_server.config import Config
from shortlist_server.domain import NO_MODEL
from shortlist_server.errors import Unavailable
from shortlist_server.inference.base import QueryEmbedding, QueryText
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.services import ScheduledEmbedder
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.rpc.health import SEARCH, SERVING, HealthKeeper, HealthServicer
from shortlist_server.storage.base import Store
from shortlist_server.storage.store import open_store


class Engine(HashingEmbedder):
    """A hashing embedder that fails on demand."""

    down = False

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        if self.down:
            raise Unavailable("the model is away")
        return super().embed_queries(queries)


class Statuses(HealthServicer):
    """Keeps what was last said of each service."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, int] = {}

    async def set(self, service: str, status: int) -> None:
        self.last[service] = status
        await super().set(service, status)


class Checked:
    """A keeper over a store with a collection, and three embedders."""

    def __init__(self, store: Store, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.first, self.used, self.spare = (Engine(name, 32) for name in ("first", "used", "spare"))
        self.models = LoadedModels(map(ScheduledEmbedder, (self.first, self.used, self.spare)), {}, NO_MODEL)
        create_collection(store, self.models, NewCollection(name="docs", embedder="used"))
        self._servicer = Statuses()
        self._keeper = HealthKeeper(
            self._servicer, self.models, store, threads, data_dir=folder, min_free_bytes=0, interval_seconds=60
        )

    async def serves(self) -> bool:
        await self._keeper.check()
        return bool(self._servicer.last[SEARCH] == SERVING)


@pytest.fixture
async def checked(tmp_path: Path) -> AsyncIterator[Checked]:
    store = open_store(Config(data_dir=tmp_path))
    with ThreadPoolExecutor(1) as threads:
        made = Checked(store, tmp_path, threads)
        yield made
    made.models.close()
    store.close()


async def test_the_models_that_searches_need_must_work(checked: Checked) -> None:
    assert await checked.serves()
    for engine in (checked.first, checked.used):
        engine.down = True
        assert not await checked.serves()
        engine.down = False
        assert await checked.serves()


async def test_a_model_that_no_search_needs_is_only_named_in_the_log(
    checked: Checked, caplog: pytest.LogCaptureFixture
) -> None:
    checked.spare.down = True
    with caplog.at_level(logging.INFO, logger="shortlist_server.rpc.health"):
        assert await checked.serves()
        assert await checked.serves()
        checked.spare.down = False
        assert await checked.serves()
    assert [one.levelname for one in caplog.records if "'spare'" in one.getMessage()] == ["ERROR", "INFO"]
