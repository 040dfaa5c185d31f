"""Flushes, merges, deletions and replacements in every order, with several of them in one transaction.

A build is begun at one step and published at another, as the child process and the writer thread do it, so that any
change may come before a build reads the database, while it runs, or in the transaction that publishes it. After each
transaction the index shows what a dict has, and agrees with the database.
"""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shortlist_server.config import Config
from shortlist_server.domain import Chunking, CollectionConfig, Commit, Deletion, Document, NewPassage, Upsert
from shortlist_server.storage.compaction.builder import BuildSpec, build
from shortlist_server.storage.compaction.planner import next_flush, next_merge
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.values import SegmentOutdated
from shortlist_server.storage.vectors.index import DenseIndex, Job, Watch
from shortlist_server.storage.vectors.segments import Segment

from .reads import search_dense

DIMENSION = 4
MOST = 1000


@dataclass(frozen=True)
class Put:
    """Writes a document, or replaces it."""

    number: int


@dataclass(frozen=True)
class Delete:
    number: int


@dataclass(frozen=True)
class Publish:
    """Publishes the build of a kind that is under way, if there is one."""

    kind: str


@dataclass(frozen=True)
class Begin:
    """Begins a build: it reads the database now."""

    kind: str


@dataclass(frozen=True)
class Fail:
    """Ends a build without a result."""

    kind: str


KINDS = st.sampled_from(["flush", "merge"])
NUMBERS = st.integers(0, 9)
CHANGES = st.one_of(st.builds(Put, NUMBERS), st.builds(Delete, NUMBERS), st.builds(Publish, KINDS))
TRANSACTIONS = st.lists(CHANGES, min_size=1, max_size=5)
BEGINNINGS = st.builds(Begin, KINDS)
STEPS = st.one_of(TRANSACTIONS, BEGINNINGS, TRANSACTIONS, BEGINNINGS, TRANSACTIONS, st.builds(Fail, KINDS))

# Two segments and rows in the growing one, from which both kinds of build can begin.
START: list[Begin | Fail | list[Put | Delete | Publish]] = [
    [Put(0), Put(1), Put(2)],
    Begin("flush"),
    [Publish("flush"), Put(3), Put(4), Put(5)],
    Begin("flush"),
    [Publish("flush"), Put(6), Put(7), Put(8)],
]


class Play:
    """A collection without threads of its own for builds, a dict of what it should hold, and the builds under way."""

    def __init__(self, folder: Path) -> None:
        self.store = EmbeddedStore(Config(data_dir=folder), maintain=False)
        config = CollectionConfig(
            embedder="none",
            embedder_revision="",
            dimension=DIMENSION,
            reranker="none",
            chunking=Chunking(max_tokens=16, overlap_tokens=0),
        )
        self.collection = self.store.create("c", config)
        self.random = np.random.default_rng(0)
        self.model: dict[str, np.ndarray] = {}
        self.builds: dict[str, tuple[ExitStack, Job, Segment | None, Watch]] = {}

    @property
    def index(self) -> DenseIndex:
        opened = self.collection._lifecycle.opened
        assert opened is not None
        return opened.serving.index

    def begin(self, kind: str) -> None:
        if kind in self.builds:
            return
        index, snapshot = self.index, self.collection.snapshot
        job = next_flush(snapshot, 1, MOST) if kind == "flush" else next_merge(snapshot, 1, MOST, idle=True)
        if job is None:
            return
        stack = ExitStack()
        watch = stack.enter_context(index.watching())
        folder = self.collection.folder
        spec = BuildSpec(
            database=str(folder / "collection.db"),
            folder=str(folder / "segments"),
            collection=self.collection.uid,
            uid=f"{len(list((folder / 'segments').iterdir())):032}{kind}",
            generation=1,
            dimension=DIMENSION,
            low=job.low,
            high=job.high,
            seed=None if job.seed is None else job.seed.row,
            threads=1,
        )
        row = build(spec, Files())
        path = folder / "segments" / spec.uid
        segment = None if row is None else Segment.load(path, row, self.collection.uid, DIMENSION)
        self.builds[kind] = (stack, job, segment, watch)

    def fail(self, kind: str) -> None:
        if kind in self.builds:
            self.builds.pop(kind)[0].close()

    def transaction(self, changes: list[Put | Delete | Publish]) -> None:
        """All changes in one transaction of the writer thread, in their order."""
        gate = threading.Event()
        blocked = self.collection.submit(Task(lambda _: gate.wait(30), lambda _: None))
        waiting: list[Future[None] | Future[Commit]] = [blocked]
        published: list[tuple[str, Future[None]]] = []
        for change in changes:
            match change:
                case Put(number):
                    waiting.append(self.collection.commit([self.upsert(f"d{number}")]))
                case Delete(number):
                    self.model.pop(f"d{number}", None)
                    waiting.append(self.collection.commit([Deletion(id=f"d{number}")]))
                case Publish(kind) if kind in self.builds and kind not in (kind for kind, _ in published):
                    published.append((kind, self.publish(*self.builds[kind][1:])))
        gate.set()
        for future in waiting:
            future.result(30)
        for kind, future in published:
            if not isinstance(future.exception(30), SegmentOutdated):
                future.result()
            self.builds.pop(kind)[0].close()

    def publish(self, job: Job, segment: Segment | None, watch: Watch) -> Future[None]:
        index = self.index

        def apply(transaction: WriteTransaction) -> None:
            index.admit(job, segment, watch)
            transaction.replace_segments(
                [old.row.uid for old in job.replaced], None if segment is None else segment.row
            )

        return self.collection.submit(Task(apply, lambda _: index.swap(job, segment, watch)))

    def upsert(self, id: str) -> Upsert:
        vectors = self.random.standard_normal((1 + len(id) % 2, DIMENSION)).astype(np.float32)
        self.model[id] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return Upsert(
            document=Document(id=id, text="", metadata={}),
            passages={1: [NewPassage(start=0, end=1, vector=vector, tokens=1) for vector in self.model[id]]},
            content_hash=b"",
        )

    def check(self) -> None:
        assert self.collection.difference().problems == ()
        names = {key: id for id, key in self.collection.keys([f"d{i}" for i in range(10)]).items()}
        for query in np.eye(DIMENSION, dtype=np.float32)[:2]:
            best = {id: float(np.max(vectors @ query)) for id, vectors in self.model.items()}
            for exact in (True, False):
                found = search_dense(self.collection, query, 10, exact=exact)
                # A key that leads nowhere is a document that is gone.
                got = list(dict.fromkeys(names.get(key) for key in found.keys.tolist()))
                assert got == sorted(best, key=best.__getitem__, reverse=True)

    def close(self) -> None:
        for kind in list(self.builds):
            self.fail(kind)
        self.store.close()


@given(st.lists(STEPS, min_size=3, max_size=12))
@example([Begin("flush"), Begin("merge"), [Publish("merge")], [Delete(7), Publish("flush")]])
@example([Begin("merge"), Begin("flush"), [Delete(0)], [Publish("flush"), Delete(6)], [Put(2), Publish("merge")]])
@settings(max_examples=30, deadline=None)
def test_the_index_shows_what_is_stored_in_whatever_order_builds_and_changes_come(
    steps: list[Begin | Fail | list[Put | Delete | Publish]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        play = Play(Path(folder))
        try:
            for step in (*START, *steps):
                match step:
                    case Begin(kind):
                        play.begin(kind)
                    case Fail(kind):
                        play.fail(kind)
                    case changes:
                        play.transaction(changes)
                        play.check()
            play.store.close()
            again = EmbeddedStore(Config(data_dir=Path(folder)), maintain=False)
            assert again.open("c").damage == ()
            again.close()
        finally:
            play.close()
