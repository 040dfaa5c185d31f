"""Flushes, merges, and searches over segments, the growing one included."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.domain import Deletion, DenseCandidates, DenseStrategy, Equals, Range, SearchDefaults, Vector
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.vectors.search import DEFAULT_EF
from shortlist_server.storage.verify import verify_collection

from .conftest import Maker, OpenStore, collection_config, opened
from .reads import score_documents, search_dense


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def brute(maker: Maker, query: Vector, ids: Iterable[str], n: int) -> list[str]:
    scores = {id: float(np.max(maker.vectors[id] @ query)) for id in ids}
    return sorted(scores, key=scores.__getitem__, reverse=True)[:n]


def found_ids(collection: EmbeddedCollection, found: DenseCandidates, ids: Iterable[str]) -> list[str]:
    names = {key: id for id, key in collection.keys(list(ids)).items()}
    return list(dict.fromkeys(names[key] for key in found.keys.tolist()))


def fill(collection: EmbeddedCollection, maker: Maker, n: int, start: int = 0, **metadata: Any) -> list[str]:
    ids = [f"d{i}" for i in range(start, start + n)]
    collection.commit([maker.upsert(id, n=int(id[1:]), **metadata) for id in ids]).result(30)
    return ids


def test_a_long_growing_segment_is_flushed_and_everything_is_still_found(
    collection: EmbeddedCollection, maker: Maker
) -> None:
    ids = fill(collection, maker, 300)
    wait_until(lambda: collection.info().segment_passage_count == 300)
    fill(collection, maker, 10, start=300)
    query = maker.vector()
    assert found_ids(collection, search_dense(collection, query, 10), maker.vectors) == brute(
        maker, query, maker.vectors, 10
    )
    assert len(ids) == 300


def test_what_dies_in_a_segment_is_not_found_before_or_after_a_restart(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore, maker: Maker
) -> None:
    fill(collection, maker, 200)
    wait_until(lambda: collection.info().segment_count == 1)
    gone = [f"d{i}" for i in range(0, 40)]
    collection.commit([Deletion(id=id) for id in gone]).result(30)
    left = set(maker.vectors) - set(gone)
    query = maker.vectors["d3"][0]
    expected = brute(maker, query, left, 10)
    assert found_ids(collection, search_dense(collection, query, 10), maker.vectors) == expected
    store.close()
    again = open_store().open("papers")
    assert again.info().segment_count == 1
    assert found_ids(again, search_dense(again, query, 10), maker.vectors) == expected


def test_a_segment_with_many_dead_rows_is_built_anew(collection: EmbeddedCollection, maker: Maker) -> None:
    fill(collection, maker, 200)
    wait_until(lambda: collection.info().segment_count == 1)
    before = collection.snapshot.segments[0].row.uid
    collection.commit([Deletion(id=f"d{i}") for i in range(80)]).result(30)
    wait_until(lambda: collection.snapshot.segments[0].row.uid != before)
    assert len(collection.snapshot.segments[0].passage_ids) == 120


def test_a_segment_without_living_rows_goes_away(collection: EmbeddedCollection, maker: Maker) -> None:
    fill(collection, maker, 100)
    wait_until(lambda: collection.info().segment_count == 1)
    assert collection.delete_matching(Range(("n",), lower=0.0)).result(30) == 100
    wait_until(lambda: collection.info().segment_count == 0)
    assert len(search_dense(collection, maker.vector(), 3).keys) == 0


def test_small_neighbours_are_merged(open_store: OpenStore, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = open_store().create("papers", collection_config())

    def in_segments(passages: int) -> Callable[[], bool]:
        return lambda: collection.info().segment_passage_count == passages

    for start in range(0, 400, 100):
        fill(collection, maker, 100, start=start)
        wait_until(in_segments(start + 100))
    wait_until(lambda: collection.info().segment_count == 1)
    collection.commit([Deletion(id="d5")]).result(30)
    query = maker.vectors["d5"][0]
    left = set(maker.vectors) - {"d5"}
    assert found_ids(collection, search_dense(collection, query, 5), maker.vectors) == brute(maker, query, left, 5)


def test_changes_during_a_build_are_in_its_result(open_store: OpenStore, maker: Maker) -> None:
    collection = open_store(segment_min_passages=1000).create("papers", collection_config())
    fill(collection, maker, 1500)
    for i in range(0, 1500, 3):
        collection.commit([Deletion(id=f"d{i}")]).result(30)
    left = [f"d{i}" for i in range(1500) if i % 3]
    wait_until(lambda: collection.info().segment_count == 1)
    query = maker.vector()
    assert found_ids(collection, search_dense(collection, query, 10, exact=True), maker.vectors) == brute(
        maker, query, left, 10
    )


@pytest.mark.parametrize("share", [0.005, 0.1, 0.5, 0.99])
def test_a_filtered_search_finds_all_there_is_up_to_its_limit(
    open_store: OpenStore, maker: Maker, share: float
) -> None:
    collection = open_store(segment_min_passages=3000).create("papers", collection_config())
    fill(collection, maker, 4000)
    wait_until(lambda: collection.info().segment_count == 1)
    bound = 4000 * share
    selection = collection.select(Range(("n",), upper=bound, upper_inclusive=False))
    assert selection.matches == bound
    passing = [f"d{i}" for i in range(int(bound))]
    right = 0
    for _ in range(20):
        query = maker.vector()
        found = found_ids(collection, search_dense(collection, query, 10, selection), maker.vectors)
        assert len(found) == 10
        assert set(found) <= set(passing)
        right += len(set(found) & set(brute(maker, query, passing, 10)))
    assert right >= 195


def test_the_strategy_says_how_a_search_was_run(open_store: OpenStore, maker: Maker) -> None:
    collection = open_store(segment_min_passages=3000).create("papers", collection_config())
    fill(collection, maker, 4000)
    wait_until(lambda: collection.info().segment_count == 1)
    query = maker.vector()
    assert search_dense(collection, query, 10).strategy is DenseStrategy.HNSW
    assert search_dense(collection, query, 10, exact=True).strategy is DenseStrategy.EXACT
    assert search_dense(collection, query, 10, collection.select(Equals(("n",), 1.0))).strategy is DenseStrategy.EXACT
    most = collection.select(Range(("n",), upper=3900.0))
    assert search_dense(collection, query, 10, most).strategy is DenseStrategy.HNSW_OVERFETCH


def test_a_raised_ef_widens_a_filtered_search_until_it_is_exact(open_store: OpenStore, maker: Maker) -> None:
    collection = open_store(segment_min_passages=3000).create("papers", collection_config())
    fill(collection, maker, 4000)
    wait_until(lambda: collection.info().segment_count == 1)
    query, half = maker.vector(), collection.select(Range(("n",), lower=2000.0))
    assert search_dense(collection, query, 30, half).strategy is DenseStrategy.HNSW_OVERFETCH
    collection.raise_ef(512, filtered=False, under=SearchDefaults(), generation=1)
    assert search_dense(collection, query, 30, half).strategy is DenseStrategy.HNSW_OVERFETCH
    collection.raise_ef(512, filtered=True, under=SearchDefaults(), generation=1)
    assert search_dense(collection, query, 30, half).strategy is DenseStrategy.EXACT
    assert search_dense(collection, query, 30, half, ef=64).strategy is DenseStrategy.HNSW_OVERFETCH


def test_every_part_of_the_index_says_what_it_was_asked_and_what_it_expected(
    open_store: OpenStore, maker: Maker
) -> None:
    collection = open_store(segment_min_passages=3000).create("papers", collection_config())
    fill(collection, maker, 4000)
    wait_until(lambda: collection.info().segment_count == 1)
    fill(collection, maker, 20, start=4000)
    uid = collection.snapshot.segments[0].row.uid
    query = maker.vector()
    found = search_dense(collection, query, 10)
    assert found.asked == 10
    segment, growing = found.sources
    assert (segment.name, segment.passages, segment.matches, segment.ef) == (uid, 4000, None, DEFAULT_EF)
    assert (segment.strategy, segment.found) == (DenseStrategy.HNSW, DEFAULT_EF)
    assert (growing.name, growing.passages, growing.matches, growing.ef) == ("growing", 20, None, 0)
    assert (growing.strategy, growing.found) == (DenseStrategy.EXACT, 10)
    segment, growing = search_dense(collection, query, 10, collection.select(Range(("n",), lower=3990.0))).sources
    assert (segment.matches, segment.ef, segment.strategy) == (10, 0, DenseStrategy.EXACT)
    assert growing.matches == 20
    segment, _ = search_dense(collection, query, 10, collection.select(Range(("n",), upper=3900.0)), ef=200).sources
    assert (segment.matches, segment.ef, segment.strategy) == (3901, 200, DenseStrategy.HNSW_OVERFETCH)
    assert 10 <= segment.found <= 200


def test_a_filter_that_passes_only_what_is_far_away_still_finds_all(open_store: OpenStore, maker: Maker) -> None:
    collection = open_store(segment_min_passages=3000).create("papers", collection_config())
    centre = maker.vector()
    near = [maker.upsert(f"near{i}", side="near") for i in range(2000)]
    for change in near:
        vector = centre + 0.05 * maker.vector()
        change.passages[1][0].vector[:] = vector / np.linalg.norm(vector)
        maker.vectors[change.document.id] = np.array([change.passages[1][0].vector])
    collection.commit([*near, *(maker.upsert(f"far{i}", side="far") for i in range(2000))]).result(30)
    wait_until(lambda: collection.info().segment_count == 1)
    found = search_dense(collection, centre, 10, collection.select(Equals(("side",), "far")))
    expected = brute(maker, centre, [f"far{i}" for i in range(2000)], 10)
    assert found_ids(collection, found, maker.vectors)[:10] == expected
    assert found.strategy in (DenseStrategy.EXACT_FALLBACK, DenseStrategy.HNSW_OVERFETCH)


def test_no_segment_is_larger_than_the_cap_however_long_the_growing_segment(
    open_store: OpenStore, maker: Maker
) -> None:
    collection = open_store(maintain=False, segment_max_passages=100).create("papers", collection_config())
    fill(collection, maker, 350)
    assert collection.flush_now() == 4
    assert collection.merge_now() == 0
    assert [len(segment.passage_ids) for segment in collection.snapshot.segments] == [100, 100, 100, 50]
    query = maker.vector()
    assert found_ids(collection, search_dense(collection, query, 10), maker.vectors) == brute(
        maker, query, maker.vectors, 10
    )


def test_a_merge_that_starts_from_its_largest_part_is_as_good_as_one_from_nothing(
    open_store: OpenStore, maker: Maker
) -> None:
    collection = open_store(maintain=False, segment_max_passages=10_000).create("papers", collection_config())
    fill(collection, maker, 100)
    collection.flush_now()
    fill(collection, maker, 3000, start=100)
    collection.flush_now()
    collection.commit([Deletion(id="d150")]).result(30)
    assert collection.merge_now() == 1
    (segment,) = collection.snapshot.segments
    assert (len(segment.passage_ids), segment.live) == (3100, 3099)
    assert segment.passage_ids[0] == 101
    left = set(maker.vectors) - {"d150"}
    right = 0
    for _ in range(20):
        query = maker.vector()
        found = found_ids(collection, search_dense(collection, query, 10), maker.vectors)
        right += len(set(found) & set(brute(maker, query, left, 10)))
    assert right >= 195
    keys = collection.keys(["d5", "d2000"])
    assert score_documents(collection, query, list(keys.values())).keys.tolist() == [
        keys[id] for id in brute(maker, query, ["d5", "d2000"], 2)
    ]
    assert verify_collection(collection).ok


def test_a_hole_left_by_a_damaged_segment_is_flushed_again_in_its_place(open_store: OpenStore, maker: Maker) -> None:
    store = open_store(maintain=False, segment_max_passages=100)
    collection = store.create("papers", collection_config())
    fill(collection, maker, 300)
    assert collection.flush_now() == 3
    middle = collection.snapshot.segments[1]
    (collection.folder / "segments" / middle.row.uid / "graph.hnsw").unlink()
    store.close()
    again = open_store(maintain=False, segment_max_passages=100).open("papers")
    assert again.stats().growing_passages == 100
    query = maker.vectors["d150"][0]
    expected = brute(maker, query, maker.vectors, 10)
    assert found_ids(again, search_dense(again, query, 10), maker.vectors) == expected
    fill(again, maker, 10, start=300)
    assert again.flush_now() == 2
    assert [segment.row.low for segment in again.snapshot.segments] == [0, 100, 200, 300]
    assert verify_collection(again).ok


def test_commits_wait_for_a_builder_that_cannot_keep_up_and_go_on(
    open_store: OpenStore, maker: Maker, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(1); raise SystemExit(1)")
    collection = open_store(segment_min_passages=10, builder=(sys.executable, str(slow))).create(
        "papers", collection_config()
    )
    for start in range(0, 400, 20):
        fill(collection, maker, 20, start=start)
    assert collection.stats().waited_seconds > 0.1
    assert collection.info().document_count == 400
    wait_until(lambda: collection.stats().build_failures > 0)
    assert collection.stats().failing
    assert "code 1" in collection.stats().last_build_error


def test_searches_while_documents_come_and_go_find_what_stays(open_store: OpenStore, maker: Maker) -> None:
    collection = open_store(segment_min_passages=200).create("papers", collection_config())
    stay = fill(collection, maker, 100)
    keys = {collection.keys([id])[id]: id for id in stay}
    stop = threading.Event()
    problems = []

    def search() -> None:
        while not stop.is_set():
            id = stay[np.random.randint(len(stay))]
            found = search_dense(collection, maker.vectors[id][0], 1)
            if [keys.get(key) for key in found.keys.tolist()] != [id]:
                problems.append(id)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for start in range(1000, 4000, 250):
        ids = [f"d{i}" for i in range(start, start + 250)]
        collection.commit([Maker(seed=i).upsert(id) for i, id in enumerate(ids, start)]).result(30)
        collection.commit([Deletion(id=id) for id in ids[:200]]).result(30)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert verify_collection(collection).ok


def test_a_deletion_in_the_transaction_that_publishes_a_segment_is_in_the_segment(
    open_store: OpenStore, maker: Maker
) -> None:
    collection = open_store(maintain=False).create("papers", collection_config())
    fill(collection, maker, 100)
    gate = threading.Event()
    blocked = collection.submit(Task(lambda _: gate.wait(30), lambda _: None))
    wait_until(blocked.running)
    deletion = collection.commit([Deletion(id="d7")])
    flushing = threading.Thread(target=collection.flush_now)
    flushing.start()
    wait_until(lambda: opened(collection).writer.queued == 2)
    gate.set()
    flushing.join()
    deletion.result(30)
    (segment,) = collection.snapshot.segments
    assert (len(segment.passage_ids), segment.live) == (100, 99)
    assert "d7" not in found_ids(collection, search_dense(collection, maker.vectors["d7"][0], 99), maker.vectors)
    assert verify_collection(collection).ok
