"""The estimate of recall: its interval, which searches it is of, and when it has searches widened."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import (
    AnyOf,
    BuiltDocument,
    Chunking,
    Deadline,
    Document,
    Equals,
    Filter,
    GenerationConfig,
    NewPassage,
    Range,
    RecallEstimate,
    SearchDefaults,
    SearchRequest,
    Upsert,
)
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.inference.catalog import load_models
from shortlist_server.observe.observer import Observer
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.pipeline.recall import (
    KEPT,
    LIKELY_CHECKS,
    MIN_CHECKS,
    WINDOW,
    RecallMonitor,
    Sample,
    falls_short,
    interval,
    measure,
)
from shortlist_server.pipeline.search import Searcher
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.store import EmbeddedStore

DIMENSION = 16
ROWS = 4000
PRESET = SearchDefaults(ef=10, dense_candidates=10)
HALF = Range(("n",), lower=ROWS / 2)

# ------------------------------------------------------------------------------------------------------------ interval


def independent(random: np.random.Generator, mean: float, queries: int) -> np.ndarray:
    """Recalls of queries that find each of ten documents by itself."""
    return random.binomial(10, mean, queries) / 10


def whole(random: np.random.Generator, mean: float, queries: int) -> np.ndarray:
    """Recalls of queries that find all or nothing."""
    return (random.random(queries) < mean).astype(float)


def mixed(random: np.random.Generator, mean: float, queries: int) -> np.ndarray:
    """Recalls of which most misses come from few queries that find nothing, as graphs have them."""
    return np.where(
        random.random(queries) < (1 - mean) / 2, 0.0, independent(random, mean / (1 - (1 - mean) / 2), queries)
    )


@pytest.mark.parametrize("queries", [MIN_CHECKS, LIKELY_CHECKS, WINDOW])
@pytest.mark.parametrize("mean", [0.7, 0.9, 0.98])
@pytest.mark.parametrize(("draw", "most"), [(independent, 1.0), (mixed, 1.0), (whole, 0.99)])
def test_at_least_about_95_of_100_intervals_hold_the_true_recall(
    draw: Any, most: float, mean: float, queries: int
) -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        _, lower, upper = interval(draw(random, mean, queries).tolist())
        held += lower <= mean <= upper
    assert 0.92 <= held / 1000 <= most


@pytest.mark.parametrize("recall", [0.0, 0.9, 1.0])
def test_an_interval_holds_the_mean_and_stays_between_0_and_1(recall: float) -> None:
    for n in range(1, WINDOW + 1):
        mean, lower, upper = interval([recall] * n)
        assert mean == pytest.approx(recall)
        assert 0 <= lower <= mean <= upper <= 1
        assert lower < upper


@pytest.mark.parametrize(
    ("query_count", "recall", "upper", "short"),
    [
        (MIN_CHECKS - 1, 0.1, 0.2, False),
        (MIN_CHECKS, 0.8, 0.94, True),
        (MIN_CHECKS, 0.8, 0.96, False),
        (LIKELY_CHECKS - 1, 0.94, 0.96, False),
        (LIKELY_CHECKS, 0.94, 0.96, True),
        (LIKELY_CHECKS, 0.95, 0.97, False),
    ],
)
def test_recall_falls_short_when_that_is_sure_and_after_more_checks_when_it_is_likely(
    query_count: int, recall: float, upper: float, short: bool
) -> None:
    estimate = RecallEstimate(ef=128, recall=recall, lower=0.0, upper=upper, query_count=query_count)
    assert falls_short(estimate, 0.95) is short
    assert not falls_short(estimate, 0.0)


# ------------------------------------------------------------------------------------------------------------ searches


def unit(values: np.ndarray) -> np.ndarray:
    made: np.ndarray = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return made


@pytest.fixture(scope="module")
def models() -> Iterator[ModelCatalog]:
    catalog = load_models(Config(embedders=("hashing",)))
    yield catalog
    catalog.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, models: ModelCatalog) -> Path:
    """A data folder with a collection "c": a segment of random vectors, of which its preset ef finds too little."""
    made = tmp_path_factory.mktemp("data")
    store = EmbeddedStore(Config(data_dir=made), maintain=False)
    collection = create_collection(
        store, models, NewCollection(name="c", embedder="none", dimension=DIMENSION, search_defaults=PRESET)
    )
    changes = [
        Upsert(
            document=Document(id=str(i), metadata={"n": i}),
            passages={1: [NewPassage(start=0, end=0, vector=vector, tokens=0)]},
            content_hash=b"",
        )
        for i, vector in enumerate(unit(np.random.default_rng(5).standard_normal((ROWS, DIMENSION))))
    ]
    collection.commit(changes).result()
    store.open("c").flush_now()
    store.close()
    return made


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Iterator[EmbeddedStore]:
    shutil.copytree(folder, tmp_path / "data")
    opened = EmbeddedStore(Config(data_dir=tmp_path / "data"), maintain=False)
    yield opened
    opened.close()


@pytest.fixture
def collection(store: EmbeddedStore) -> EmbeddedCollection:
    return store.open("c")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Searching:
    """A searcher with its monitor, and queries drawn from a seeded generator."""

    def __init__(self, store: EmbeddedStore, models: ModelCatalog, threads: ThreadPoolExecutor) -> None:
        self.busy = False
        self.monitor = RecallMonitor(threads, interval_seconds=0.001, busy=lambda: self.busy)
        self._searcher = Searcher(store, models, threads, Observer(), self.monitor)
        self._random = np.random.default_rng(7)

    async def search(
        self,
        times: int = 1,
        filter: Filter | None = None,
        settings: SearchDefaults = SearchDefaults(),
        generation: int = 0,
    ) -> None:
        for _ in range(times):
            vector = unit(self._random.standard_normal(DIMENSION))
            request = SearchRequest(
                collection="c", vector=vector, filter=filter, settings=settings, generation=generation
            )
            await self._searcher.search(request, Deadline.after(30))

    async def check(self, times: int) -> None:
        for _ in range(times):
            await self.monitor.check()


@pytest.fixture
def searching(store: EmbeddedStore, models: ModelCatalog, threads: ThreadPoolExecutor) -> Searching:
    return Searching(store, models, threads)


async def test_searches_are_checked_once_each_and_apart_by_whether_they_have_a_filter(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    before = searching.monitor.of(collection)
    assert (before.target, before.unfiltered, before.filtered) == (0.98, RecallEstimate(ef=10), RecallEstimate(ef=10))
    await searching.search(7)
    await searching.search(3, HALF)
    await searching.check(20)
    recall = searching.monitor.of(collection)
    assert (recall.unfiltered.query_count, recall.unfiltered.check_count) == (7, 7)
    assert (recall.filtered.query_count, recall.filtered.check_count) == (3, 3)
    assert recall.unfiltered.recall is not None
    assert 0 < recall.unfiltered.lower < recall.unfiltered.recall < recall.unfiltered.upper < 1


async def test_what_cannot_be_less_than_exact_or_set_its_own_ef_is_not_checked(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    await searching.search(3, settings=SearchDefaults(exact=True))
    await searching.search(3, settings=SearchDefaults(ef=12))
    await searching.search(3, Range(("n",), lower=ROWS - 20.0))
    await searching.search(3, AnyOf((HALF, *(Equals(("n",), "x" * 100) for _ in range(100)))))
    await searching.check(5)
    assert searching.monitor.of(collection).unfiltered.check_count == 0
    assert searching.monitor.of(collection).filtered.check_count == 0


async def test_few_of_many_searches_are_kept_and_newer_ones_take_their_place(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    await searching.search(KEPT)
    (watched,) = searching.monitor._watched.values()
    searches = watched.unfiltered
    first = list(searches.samples.items)
    await searching.search(9 * KEPT)
    assert len(first) == len(searches.samples.items) == KEPT
    assert sum(any(sample is old for old in first) for sample in searches.samples.items) < KEPT / 2


async def test_nothing_is_checked_while_the_server_is_busy(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    await searching.search(2)
    searching.busy = True
    await searching.check(2)
    assert searching.monitor.of(collection).unfiltered.check_count == 0
    searching.busy = False
    await searching.check(2)
    assert searching.monitor.of(collection).unfiltered.check_count == 2


async def test_ef_is_doubled_until_the_target_holds_and_the_defaults_stay_as_they_are(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    seen = {}
    while (recall := searching.monitor.of(collection).unfiltered).query_count < WINDOW:
        seen[recall.ef] = recall
        await searching.search()
        await searching.check(1)
    assert recall.recall is not None and recall.recall >= 0.98
    assert list(seen) == [10 * 2**i for i in range(len(seen))]
    assert len(seen) > 2
    assert collection.ef(filtered=False) == recall.ef
    assert collection.ef(filtered=True) == 10
    assert collection.config.search_defaults == PRESET
    queries = unit(np.random.default_rng(8).standard_normal((500, DIMENSION)))
    true = np.mean(
        [measure(collection, 1, Sample(vector=query, documents=10, filter=None), recall.ef) for query in queries]
    )
    assert recall.lower - 0.01 <= true <= recall.upper + 0.01


async def test_ef_is_raised_to_a_bound_and_not_beyond(
    searching: Searching, collection: EmbeddedCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.recall.MAX_EF", 15)
    for _ in range(3 * MIN_CHECKS):
        await searching.search()
        await searching.check(1)
    recall = searching.monitor.of(collection).unfiltered
    assert (recall.ef, recall.query_count) == (15, 2 * MIN_CHECKS)
    assert recall.recall is not None and recall.recall < 0.98


async def test_a_new_target_begins_anew(searching: Searching, collection: EmbeddedCollection) -> None:
    collection.raise_ef(20, filtered=False, under=PRESET, generation=1)
    await searching.search(5)
    await searching.check(5)
    assert searching.monitor.of(collection).unfiltered.query_count == 5
    collection.update_search_defaults(replace(PRESET, recall_target=0.5))
    recall = searching.monitor.of(collection)
    assert (recall.target, recall.unfiltered) == (0.5, RecallEstimate(ef=10, check_count=5))


async def test_with_target_0_ef_stays_whatever_the_recall(searching: Searching, collection: EmbeddedCollection) -> None:
    collection.update_search_defaults(replace(PRESET, recall_target=0.0))
    for _ in range(2 * MIN_CHECKS):
        await searching.search()
        await searching.check(1)
    recall = searching.monitor.of(collection).unfiltered
    assert (recall.ef, recall.query_count) == (10, 2 * MIN_CHECKS)
    assert recall.upper < 0.98


async def test_a_collection_that_is_dropped_is_checked_no_more(
    searching: Searching,
    store: EmbeddedStore,
    collection: EmbeddedCollection,
    threads: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await searching.search(3)
    held = threading.Event()
    for _ in range(2):
        threads.submit(held.wait, 30)
    with caplog.at_level("INFO", "shortlist_server.pipeline.recall"):
        check = asyncio.create_task(searching.check(1))
        await asyncio.sleep(0)  # The check has begun, and waits for a thread.
        store.drop("c")
        held.set()
        await check
        await searching.check(3)
    assert [record.getMessage() for record in caplog.records] == [
        "cannot check the recall of collection 'c': collection 'c' is closed"
    ]


async def test_a_closed_collection_is_not_checked_until_it_is_searched_again(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    await searching.search(3)
    known = searching.monitor.of(collection)
    assert collection._lifecycle.close_unused(even_busy=False)
    await searching.check(3)
    assert not collection.is_open
    assert searching.monitor.of(collection) == known
    await searching.search(1)
    await searching.check(4)
    assert searching.monitor.of(collection).unfiltered.check_count == 4


async def test_a_check_is_no_use_that_keeps_a_collection_open(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    await searching.search(3)
    used = collection.unused_since
    await searching.check(2)
    assert searching.monitor.of(collection).unfiltered.check_count == 2
    assert collection.unused_since == used


def test_of_documents_with_the_same_cosine_any_will_do(store: EmbeddedStore, models: ModelCatalog) -> None:
    create_collection(store, models, NewCollection(name="same", embedder="none", dimension=2))
    same = store.open("same")
    vector = np.array([1, 0], dtype=np.float32)
    passage = NewPassage(start=0, end=0, vector=vector, tokens=0)
    same.commit(
        [Upsert(document=Document(id=str(i)), passages={1: [passage]}, content_hash=b"") for i in range(30)]
    ).result()
    assert measure(same, 1, Sample(vector=vector, documents=10, filter=None), 10) == 1
    nothing = Equals(("n",), 1.0)
    assert measure(same, 1, Sample(vector=vector, documents=10, filter=nothing), 10) is None


def build_another(collection: EmbeddedCollection) -> int:
    """Builds a complete second generation of other vectors; returns its number."""
    config = GenerationConfig(
        embedder="none", embedder_revision="", dimension=DIMENSION, chunking=Chunking(max_tokens=0, overlap_tokens=0)
    )
    number = collection.create_generation(config).result().number
    random = np.random.default_rng(11)
    while True:
        documents, cursor = collection.documents_to_build(number, 1000, 1 << 20)
        built = [
            BuiltDocument(
                key=document.key,
                passages=[NewPassage(start=0, end=0, vector=unit(random.standard_normal(DIMENSION)), tokens=0)],
            )
            for document in documents
        ]
        if collection.build(number, built, cursor, tokens=0).result().progress.complete:
            return number


async def test_after_a_switch_the_estimate_starts_over_and_a_canary_is_none_of_it(
    searching: Searching, collection: EmbeddedCollection
) -> None:
    for _ in range(2 * MIN_CHECKS):
        await searching.search()
        await searching.check(1)
    await searching.search(3)
    known = searching.monitor.of(collection).unfiltered
    assert known.ef > 10
    number = build_another(collection)
    collection.flush_now()
    assert searching.monitor.of(collection).unfiltered == known
    await searching.search(5, generation=number)
    await searching.check(8)
    assert searching.monitor.of(collection).unfiltered.check_count == known.check_count + 3
    collection.switch_generation(number).result()
    assert searching.monitor.of(collection).unfiltered == RecallEstimate(ef=10)
    await searching.check(3)
    assert searching.monitor.of(collection).unfiltered == RecallEstimate(ef=10), "what was kept is of the other graph"
    await searching.search(4)
    await searching.search(4, generation=1)
    await searching.check(10)
    assert searching.monitor.of(collection).unfiltered.check_count == 4


async def test_a_switch_during_a_check_makes_it_void(
    searching: Searching, collection: EmbeddedCollection, threads: ThreadPoolExecutor
) -> None:
    number = build_another(collection)
    await searching.search(3)
    held = threading.Event()
    for _ in range(2):
        threads.submit(held.wait, 30)
    check = asyncio.create_task(searching.check(1))
    await asyncio.sleep(0)  # The check has begun, and waits for a thread.
    collection.switch_generation(number).result()
    held.set()
    await check
    assert searching.monitor.of(collection).unfiltered == RecallEstimate(ef=10)


async def test_checking_goes_on_by_itself(searching: Searching, collection: EmbeddedCollection) -> None:
    task = asyncio.create_task(searching.monitor.keep())
    await searching.search(3)
    async with asyncio.timeout(30):
        while searching.monitor.of(collection).unfiltered.check_count < 3:
            await asyncio.sleep(0.01)
    task.cancel()
