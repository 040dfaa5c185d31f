"""The sample of recent queries: what it keeps, and what it forgets."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Equals, SearchRequest
from shortlist_server.pipeline.recent_queries import MAX_CHARACTERS, RecentQueries
from shortlist_server.storage.base import CollectionStore, Store
from shortlist_server.storage.store import open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(Config(data_dir=tmp_path))
    yield store
    store.close()


@pytest.fixture
def collection(store: Store) -> CollectionStore:
    chunking = Chunking(max_tokens=0, overlap_tokens=0)
    return store.create(
        "docs",
        CollectionConfig(embedder="none", embedder_revision="", dimension=4, reranker="none", chunking=chunking),
    )


def texts(recent: RecentQueries, collection: CollectionStore, count: int = 1000) -> set[str]:
    return {one.text for one in recent.some(collection, count)}


def search(text: str = "an owl") -> SearchRequest:
    return SearchRequest(collection="docs", text=text)


async def test_nothing_is_kept_unless_the_operator_asks_for_it(collection: CollectionStore) -> None:
    recent = RecentQueries(0)
    recent.note(collection, search())
    assert not recent.enabled
    assert recent.some(collection, 10) == []


async def test_a_query_keeps_its_filter_and_its_instruction(collection: CollectionStore) -> None:
    recent, filter = RecentQueries(10), Equals(("n",), 1.0)
    recent.note(collection, SearchRequest(collection="docs", text="an owl", instruction="find birds", filter=filter))
    recent.note(collection, search())
    recent.note(collection, search())
    assert {(one.text, one.instruction, one.filter) for one in recent.some(collection, 10)} == {
        ("an owl", "find birds", filter),
        ("an owl", "", None),
    }
    assert len(recent.some(collection, 1)) == 1


async def test_vectors_and_very_long_queries_are_not_kept(collection: CollectionStore) -> None:
    recent = RecentQueries(10)
    recent.note(collection, SearchRequest(collection="docs", vector=np.ones(4, np.float32)))
    recent.note(collection, search("x" * (MAX_CHARACTERS + 1)))
    assert recent.some(collection, 10) == []


async def test_the_sample_has_a_size_and_follows_the_stream(
    collection: CollectionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a seed: by chance, one of the first 1,000 queries stays in one run of sixty.
    seeded = np.random.default_rng(0)
    monkeypatch.setattr("shortlist_server.pipeline.reservoir.np.random.default_rng", lambda: seeded)
    recent = RecentQueries(50)
    for number in range(5000):
        recent.note(collection, search(f"query {number}"))
    kept = texts(recent, collection)
    assert len(kept) == 50
    assert min(int(text.split()[1]) for text in kept) > 1000, "queries of long ago have faded"


async def test_a_query_is_forgotten_after_an_hour(collection: CollectionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("shortlist_server.pipeline.recent_queries.time.monotonic", lambda: now)
    recent = RecentQueries(10)
    recent.note(collection, search("an old one"))
    now = 3000.0
    recent.note(collection, search("a new one"))
    assert texts(recent, collection) == {"an old one", "a new one"}
    now = 3601.0
    recent._purge()
    assert [one.query.text for one in recent._kept[collection].items] == ["a new one"], "nobody needs to ask for it"
    now = 7000.0
    recent._purge()
    assert recent._kept[collection].items == []


async def test_queries_go_with_their_collection(store: Store, collection: CollectionStore) -> None:
    recent = RecentQueries(10)
    recent.note(collection, search())
    assert texts(recent, collection) == {"an owl"}
    store.drop("docs")
    del collection
    gc.collect()
    again = store.create(
        "docs",
        CollectionConfig(
            embedder="none",
            embedder_revision="",
            dimension=4,
            reranker="none",
            chunking=Chunking(max_tokens=0, overlap_tokens=0),
        ),
    )
    assert recent.some(again, 10) == []
