"""A random history of several collections of which few may be open, against a dict for each.

Collections are created, changed, searched, leased, dropped and closed at any moment, segments are built, and the store
is restarted. What is closed and opened again must be what it was, and what is in use must stay open.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Deletion, Document, Include, NewPassage, Upsert, Vector
from shortlist_server.storage.base import Lease
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.store import EmbeddedStore

from .reads import search_dense

DIMENSION = 4
MOST_OPEN = 2
NAMES = st.sampled_from(["a", "b", "c", "d"])
IDS = [f"d{i}" for i in range(8)]
CONFIG = CollectionConfig(
    embedder="none",
    embedder_revision="",
    dimension=DIMENSION,
    reranker="none",
    chunking=Chunking(max_tokens=16, overlap_tokens=0),
)


class OpenAndClosed(RuleBasedStateMachine):
    """Rules act on the store and on ``self.model``: name -> id -> vector."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.random = np.random.default_rng(seed)
        self.model: dict[str, dict[str, Vector]] = {}
        self.leases: list[Lease[EmbeddedCollection]] = []
        self.store = self.open_store()
        for name in ("a", "b", "c"):
            self.create_or_drop(name)

    def open_store(self) -> EmbeddedStore:
        return EmbeddedStore(Config(data_dir=self.folder, max_open_collections=MOST_OPEN), maintain=False)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    def vector(self) -> Vector:
        vector = self.random.standard_normal(DIMENSION).astype(np.float32)
        unit: Vector = vector / np.linalg.norm(vector)
        return unit

    @rule(name=NAMES)
    def create_or_drop(self, name: str) -> None:
        if name in self.model:
            self.store.drop(name)
            del self.model[name]
        else:
            self.store.create(name, CONFIG)
            self.model[name] = {}

    @rule(name=NAMES, ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True))
    def put(self, name: str, ids: list[str]) -> None:
        if name not in self.model:
            return
        vectors = {id: self.vector() for id in ids}
        changes = [
            Upsert(
                document=Document(id=id, text="fox"),
                passages={1: [NewPassage(start=0, end=1, vector=vector, tokens=1)]},
                content_hash=b"",
            )
            for id, vector in vectors.items()
        ]
        # Nobody waits before the next rule: the commit itself must keep its collection open.
        self.pending = self.store.find(name).commit(changes)
        self.model[name].update(vectors)

    @rule(name=NAMES, id=st.sampled_from(IDS))
    def delete(self, name: str, id: str) -> None:
        if name in self.model:
            self.store.find(name).commit([Deletion(id=id)]).result(30)
            self.model[name].pop(id, None)

    @rule(name=NAMES, limit=st.integers(1, 10))
    def search(self, name: str, limit: int) -> None:
        if name not in self.model:
            return
        self.settle()
        with self.store.lease(name) as collection:
            assert collection.is_open
            query = self.vector()
            names = {key: id for id, key in collection.keys(IDS).items()}
            found = [names[key] for key in search_dense(collection, query, limit, exact=True).keys.tolist()]
            best = sorted(self.model[name], key=lambda one: float(self.model[name][one] @ query), reverse=True)
            assert found == best[:limit]
            assert {names[key] for key in collection.lexical("fox", 10).keys.tolist()} == set(self.model[name])

    @rule(name=NAMES)
    def read(self, name: str) -> None:
        if name in self.model:
            self.settle()
            stored = self.store.find(name).documents_by_id(IDS, Include(vectors=True))
            assert {id: np.asarray(d.passages[0].vector).tolist() for id, d in stored.items()} == {
                id: vector.tolist() for id, vector in self.model[name].items()
            }

    @rule(name=NAMES, even_busy=st.booleans())
    def close(self, name: str, even_busy: bool) -> None:
        if name in self.model:
            collection = self.store.find(name)
            closed = collection._lifecycle.close_unused(even_busy=even_busy)
            if collection in [lease.collection for lease in self.leases]:
                assert not closed
                assert collection.is_open

    @rule(name=NAMES)
    def lease(self, name: str) -> None:
        if name in self.model and len(self.leases) < 3:
            self.leases.append(self.store.lease(name))

    @rule()
    def release(self) -> None:
        if self.leases:
            self.leases.pop(0).release()

    @rule(name=NAMES)
    def flush(self, name: str) -> None:
        if name in self.model:
            self.settle()
            self.store.find(name).flush_now()

    @rule(name=NAMES)
    def verify(self, name: str) -> None:
        if name in self.model:
            assert self.store.verify(name).problems == []

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.leases.clear()
        self.store = self.open_store()

    def settle(self) -> None:
        if hasattr(self, "pending"):
            self.pending.exception(30)  # A collection that was dropped takes no commit.

    @invariant()
    def what_is_told_is_right_and_opens_nothing(self) -> None:
        if not hasattr(self, "store"):
            return
        self.settle()
        assert self.store.names() == sorted(self.model)
        for name, documents in self.model.items():
            collection = self.store.find(name)
            was_open = collection.is_open
            assert collection.info().document_count == collection.info().passage_count == len(documents)
            assert was_open or not collection.is_open

    @invariant()
    def few_are_open_and_all_that_are_leased(self) -> None:
        if not hasattr(self, "store"):
            return
        leased = {lease.collection.name for lease in self.leases if lease.collection.name in self.model}
        most = max(MOST_OPEN, len(leased))
        until = time.monotonic() + 30
        while self.store.open_count > most:
            assert time.monotonic() < until, "too many stay open"
            time.sleep(0.001)


TestOpenAndClosed = OpenAndClosed.TestCase
TestOpenAndClosed.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
