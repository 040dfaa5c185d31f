"""A real store with an ingester and a reindexer, and embedders that fail when they are told to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import (
    NO_MODEL,
    Chunking,
    Document,
    Generation,
    GenerationConfig,
    Include,
    NewGeneration,
    OverflowPolicy,
    SearchDefaults,
    SearchRequest,
    StoredPassage,
)
from shortlist_server.errors import InferenceFailed, Unavailable
from shortlist_server.inference.base import CutText, PassageEmbedding
from shortlist_server.inference.catalog import load_models
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.services import ScheduledEmbedder
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.pipeline.ingester import Ingester
from shortlist_server.pipeline.operations import Ack, Operation
from shortlist_server.pipeline.plan import Plan, plan
from shortlist_server.pipeline.reindex import portions
from shortlist_server.pipeline.reindex.estimate import Estimator, Footprint
from shortlist_server.pipeline.reindex.reindexer import Reindexer
from shortlist_server.pipeline.reindex.room import Room
from shortlist_server.pipeline.setbacks import Setbacks
from shortlist_server.storage import footprint
from shortlist_server.storage.base import CollectionStore
from shortlist_server.storage.store import EmbeddedStore, open_store

MAX_DOCUMENT_TOKENS = 10_000

Planned = Callable[..., Plan]
"""Plans a search; see the fixture ``planned``."""


class Engine(HashingEmbedder):
    """A hashing embedder that counts what it embeds, and fails on demand."""

    def __init__(self, name: str, dimension: int, variant: int = 1) -> None:
        super().__init__(name, dimension, variant)
        self.embedded: list[str] = []
        self.down = False
        self.cut_error: Exception | None = None
        self.cuts = 0
        self.may_cut = threading.Event()
        self.may_cut.set()
        self.seconds = 0.0
        self.unreadable = ""
        self.gate = threading.Event()
        self.gate.set()

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        self.cuts += 1
        assert self.may_cut.wait(30)
        if self.cut_error is not None:
            raise self.cut_error
        return super().cut(title, text, chunking, overflow)

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding]:
        if self.down:
            raise Unavailable("the model is away")
        if self.unreadable and any(self.unreadable in content for content in contents):
            raise InferenceFailed("the model cannot read this")
        assert self.gate.wait(30)
        time.sleep(self.seconds)
        self.embedded += contents
        return super().embed_passages(contents, token_vectors=token_vectors)


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


class Bench:
    """A store, its models and what works on them. Collections are called "docs" and begin with the embedder "old"."""

    def __init__(self, folder: Path) -> None:
        self.old, self.new = Engine("old", 32), Engine("new", 64)
        self.gate = Gate()
        self.folder = folder
        self.threads = ThreadPoolExecutor(4)
        self.open()

    def open(self, *engines: Engine) -> None:
        """Starts anew over the same folder, with these embedders, or the old and the new one."""
        self.config = Config(data_dir=self.folder, embedders=(NO_MODEL,), segment_min_passages=256)
        self.store = EmbeddedStore(self.config, crash_point=self.gate)
        self.models = LoadedModels(map(ScheduledEmbedder, engines or (self.old, self.new)), {}, NO_MODEL)
        self.setbacks = Setbacks()
        self.ingester = Ingester(
            self.store, self.models, self.threads, self.setbacks, max_document_tokens=MAX_DOCUMENT_TOKENS
        )
        sizes = Footprint(
            disk_bytes=footprint.disk_bytes,
            memory_bytes=footprint.memory_bytes,
            flushed_from=self.config.segment_min_passages,
        )
        room = self.room = Room(data_dir=self.folder, min_free_bytes=0)
        estimator = Estimator(
            self.models,
            self.threads,
            sizes,
            room,
            max_document_tokens=MAX_DOCUMENT_TOKENS,
        )
        self.reindexer = Reindexer(
            self.store,
            self.models,
            self.threads,
            self.setbacks,
            estimator,
            room,
            max_document_tokens=MAX_DOCUMENT_TOKENS,
        )

    async def close(self) -> None:
        """Stops; ``open`` starts again."""
        self.old.gate.set()
        self.new.gate.set()
        self.new.may_cut.set()
        self.gate.open.set()
        await self.reindexer.close()
        self.models.close()
        self.store.close()

    def create(self, **settings: Any) -> CollectionStore:
        """Makes the collection."""
        return create_collection(self.store, self.models, NewCollection(name="docs", **settings))

    @property
    def collection(self) -> CollectionStore:
        return self.store.find("docs")

    async def ingest(self, *documents: Document, stream: str = "", first: int = 1) -> list[Ack]:
        """Ingests documents, and returns their acknowledgements."""
        session = await self.ingester.open("docs", stream=stream, dry_run=False)

        async def messages() -> AsyncIterator[Sequence[Operation]]:
            yield [
                Operation(position=i, id=document.id, change=document, cost=len(document.text) // 4 + 1)
                for i, document in enumerate(documents, first)
            ]

        try:
            return [ack async for acks in session.run(messages()) for ack in acks]
        finally:
            self.ingester.close(session)

    async def begin_generation(self, max_tokens: int = 128, embedder: str = "new") -> Generation:
        """Makes a generation to build, which no job builds yet."""
        info = self.models.embedder(embedder).info
        return await asyncio.wrap_future(
            self.collection.create_generation(
                GenerationConfig(
                    embedder=embedder,
                    embedder_revision=info.revision,
                    dimension=info.dimension,
                    chunking=Chunking(max_tokens=max_tokens, overlap_tokens=0),
                )
            )
        )

    async def reindexed(self) -> Generation:
        """Builds a generation with the embedder "new"."""
        generation, _ = await self.reindexer.start("docs", NewGeneration(embedder="new"))
        return await self.reindexer.build("docs", generation.number)

    def generation(self, number: int) -> Generation:
        return next(one for one in self.collection.generations() if one.number == number)

    def passages(self, number: int, id: str) -> Sequence[StoredPassage]:
        """The passages of a document in a generation, with vectors."""
        include = Include(text=False, metadata=False, passages=True, vectors=True)
        key = self.collection.documents_by_id([id], Include(text=False, metadata=False))[id].key
        with self.collection.read_generation(number) as reader:
            return reader.documents([key], include)[key].passages

    async def until(self, holds: Callable[[], bool], seconds: float = 20.0) -> None:
        """Waits for something to hold."""
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()
    made.threads.shutdown()


@pytest.fixture
def planned(tmp_path: Path) -> Iterator[Planned]:
    """Plans a search in a new collection with the presets given."""
    config = Config(data_dir=tmp_path, embedders=("hashing",))
    models, store = load_models(config), open_store(config)

    def make(
        request: SearchDefaults = SearchDefaults(),
        presets: SearchDefaults = SearchDefaults(),
        *,
        text: str = "a text",
        vector: bool = False,
        embedder: str = "",
        limit: int = 10,
    ) -> Plan:
        new = NewCollection(
            name=f"c{len(store.names())}",
            embedder=embedder,
            dimension=256 if embedder == "none" else 0,
            search_defaults=presets,
        )
        collection = create_collection(store, models, new)
        values = np.ones(collection.config.dimension, dtype=np.float32) if vector else None
        search = SearchRequest(collection=collection.name, text=text, vector=values, limit=limit, settings=request)
        with collection.read_generation() as generation:
            return plan(search, generation, models)

    yield make
    store.close()
    models.close()


def texts(count: int, first: int = 1) -> list[Document]:
    return [Document(id=f"d{i}", text=f"text number {i} of a few") for i in range(first, first + count)]


async def begin(bench: Bench) -> tuple[int, asyncio.Task[object]]:
    """Makes a generation and begins to build it, without an estimate, which would embed."""
    number = (await bench.begin_generation()).number
    return number, asyncio.create_task(bench.reindexer.build("docs", number))


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "PORTION_DOCUMENTS", 5)
