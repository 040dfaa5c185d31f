"""Collections are opened on use and closed when idle; nobody who uses one notices."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sys
import threading
import time
import tracemalloc  # noqa: F401 -- pytest imports it in a hook, which may run where no file can be opened
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shortlist_server.domain import Include, SearchDefaults
from shortlist_server.errors import CollectionNotFound, DataCorrupted, Overloaded, Unavailable
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.disk import descriptors
from shortlist_server.storage.opening.open_cache import KEPT_TIMES_OPENING
from shortlist_server.storage.rows.reader import KEPT_CONNECTIONS
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore

from .conftest import Maker, OpenStore, collection_config, opened
from .reads import search_dense


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def descriptors_now() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def fill(collection: EmbeddedCollection, maker: Maker, count: int, prefix: str = "d") -> None:
    collection.commit([maker.upsert(f"{prefix}{i}", text="fox") for i in range(count)]).result(30)


def close_now(collection: EmbeddedCollection) -> bool:
    return collection._lifecycle.close_unused(even_busy=False)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Within the block this process can open no file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_threads_and_descriptors_do_not_grow_with_collections(open_store: OpenStore, maker: Maker) -> None:
    descriptors_before, threads_before = descriptors_now(), threading.active_count()
    store = open_store(max_open_collections=8)
    for number in range(60):
        fill(store.create(f"c{number}", collection_config()), maker, 2)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda n: len(store.open(f"c{n}").lexical("fox", 10).keys), range(60)))
    assert found == [2] * 60
    wait_until(lambda: store.open_count <= 8)
    most = 8 * (3 + 4) + 2 * KEPT_CONNECTIONS + 8
    assert descriptors_now() - descriptors_before <= most
    assert threading.active_count() - threads_before <= 20


def test_an_idle_collection_is_closed_and_answers_as_before(open_store: OpenStore, maker: Maker) -> None:
    store = open_store(collection_idle_seconds=0.1)
    collection = store.create("papers", collection_config())
    collection._lifecycle.open_seconds = 0.0
    fill(collection, maker, 10)
    before = collection.info()
    wait_until(lambda: store.open_count == 0)
    assert not (collection.folder / "collection.db-wal").exists()
    assert search_dense(collection, maker.vectors["d3"][0], 1).keys.tolist() == [collection.keys(["d3"])["d3"]]
    assert (collection.sequence, collection.info().document_count) == (before.sequence, before.document_count)


def test_without_an_idle_time_a_collection_stays_open_while_there_is_room(open_store: OpenStore) -> None:
    store = open_store(collection_idle_seconds=0, max_open_collections=2)
    first, second = (store.create(name, collection_config()) for name in ("a", "b"))
    store._open_cache._sweep()
    assert first.is_open
    assert second.is_open
    store.create("c", collection_config())
    wait_until(lambda: not first.is_open)
    assert second.is_open


def test_what_took_long_to_open_stays_open_longer(open_store: OpenStore) -> None:
    store = open_store(collection_idle_seconds=0.1)
    quick, slow = (store.create(name, collection_config()) for name in ("quick", "slow"))
    quick._lifecycle.open_seconds, slow._lifecycle.open_seconds = 0.0, 60.0 / KEPT_TIMES_OPENING
    wait_until(lambda: not quick.is_open)
    assert slow.is_open


def test_the_place_is_taken_from_the_one_that_was_not_used_for_longest(open_store: OpenStore) -> None:
    store = open_store(max_open_collections=2)
    first, second = (store.create(name, collection_config()) for name in ("a", "b"))
    for one in (first, second):
        one._lifecycle.open_seconds = 0.0
    with store.lease("a"):
        pass
    store.create("c", collection_config())
    wait_until(lambda: store.open_count == 2)
    assert first.is_open
    assert not second.is_open


def test_a_leased_collection_is_not_closed(open_store: OpenStore, maker: Maker) -> None:
    store = open_store(max_open_collections=1)
    store.create("a", collection_config())
    with store.lease("a") as collection:
        assert not close_now(collection)
        for name in ("b", "c"):
            fill(store.create(name, collection_config()), maker, 1)
        wait_until(lambda: store.open_count == 1)
        assert collection.is_open
    lease = store.try_lease("a")
    assert lease is not None
    lease.release()
    lease.release()
    assert close_now(collection)
    assert store.try_lease("a") is None


def test_a_collection_with_a_commit_under_way_is_not_closed(collection: EmbeddedCollection, maker: Maker) -> None:

    held = threading.Event()
    collection.submit(Task(lambda _: held.wait(30), lambda _: None))
    commit = collection.commit([maker.upsert("a")])
    assert not close_now(collection)
    held.set()
    commit.result(30)
    wait_until(lambda: close_now(collection))
    assert collection.count(None) == 1


def test_a_collection_that_builds_a_segment_is_closed_only_where_the_limit_of_files_demands_it(
    open_store: OpenStore, maker: Maker, tmp_path: Path
) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(60)")
    store = open_store(segment_min_passages=10, builder=(sys.executable, str(slow)))
    collection = store.create("a", collection_config())
    fill(collection, maker, 10)
    wait_until(lambda: opened(collection).busy)
    assert not close_now(collection)
    store._open_cache._most_descriptors = 5
    store.create("b", collection_config())
    assert not collection.is_open
    assert collection.info().document_count == 10


def test_a_collection_whose_builds_fail_may_be_closed_and_tries_again_when_it_is_opened(
    open_store: OpenStore, maker: Maker, tmp_path: Path
) -> None:
    switch = tmp_path / "builder.py"
    switch.write_text("raise SystemExit(1)")
    store = open_store(segment_min_passages=10, builder=(sys.executable, "-P", str(switch)))
    collection = store.create("a", collection_config())
    fill(collection, maker, 20)
    wait_until(lambda: collection.stats().failing)
    wait_until(lambda: close_now(collection))
    assert collection.stats().build_failures > 0
    switch.write_text("from shortlist_server.storage.compaction.builder import main; main()")
    with store.lease("a"):
        wait_until(lambda: not collection.stats().failing)
        assert collection.info().segment_count == 1


def test_where_all_are_in_use_and_no_file_more_is_allowed_the_caller_is_told_to_come_back(
    open_store: OpenStore,
) -> None:
    store = open_store()
    for name in ("a", "b", "c"):
        store.create(name, collection_config())
    store._open_cache._most_descriptors = 10
    assert close_now(store.find("c"))
    with store.lease("a"), store.lease("b"):
        with pytest.raises(Overloaded, match="open files") as caught:
            store.open("c")
        assert caught.value.retry_after_seconds
        assert caught.value.metadata["collection"] == "c"
        assert not store.find("c").is_open
        made = store.create("d", collection_config())
        assert not made.is_open
        assert made.info().document_count == 0
    store.open("c")
    assert made.count(None) == 0


def test_what_is_known_of_a_closed_collection_is_told_without_opening_it(open_store: OpenStore, maker: Maker) -> None:
    store = open_store()
    collection = store.create("papers", collection_config(fields=("year",)))
    fill(collection, maker, 100)
    collection.flush_now()
    collection.update_search_defaults(SearchDefaults(ef=77))
    collection.raise_ef(200, filtered=True, under=SearchDefaults(ef=77), generation=1)
    built = collection.stats().flushes
    store.close()
    assert collection.stats().flushes == built
    store = open_store()
    closed = store.find("papers")

    def told() -> tuple[object, ...]:
        info = replace(closed.info(), disk_bytes=0)  # An open one has a log beside the database.
        return info, closed.config, closed.sequence, closed.ef(filtered=False), closed.ef(filtered=True)

    before = told()
    assert not closed.is_open
    with store.lease("papers"):
        opened = told()
    assert before == opened
    wait_until(lambda: close_now(closed))
    assert told() == opened
    assert store.open_count == 0


def test_what_a_crash_left_in_the_log_is_told_of_a_collection_that_was_never_opened(
    store: EmbeddedStore, open_store: OpenStore, maker: Maker, tmp_path: Path
) -> None:
    fill(store.create("a", collection_config()), maker, 10)
    # What a killed process leaves: the files as they are while it runs.
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    again = open_store(data_dir=tmp_path / "copy")
    assert again.find("a").info().document_count == 10
    assert again.open("a").documents_by_id(["d3"], Include())["d3"].text == "fox"


def test_maintenance_is_counted_however_often_a_collection_is_closed(open_store: OpenStore, maker: Maker) -> None:
    collection = open_store().create("papers", collection_config())
    fill(collection, maker, 70)
    wait_until(lambda: collection.info().segment_count == 1)
    wait_until(lambda: close_now(collection))
    assert collection.stats().flushes == 1
    with collection.lease():
        assert collection.stats().flushes == 1


def test_a_collection_that_is_used_while_it_is_closed_again_and_again_loses_nothing(
    open_store: OpenStore, maker: Maker
) -> None:
    store = open_store(max_open_collections=1)
    names = [f"c{i}" for i in range(4)]
    for name in names:
        store.create(name, collection_config())
    stop = threading.Event()
    problems: list[str] = []
    closed: list[int] = []

    def close_all() -> None:
        # With a pause: threads that never wait would leave the others no turn of the interpreter.
        while not stop.wait(0.002):
            closed.append(sum(store.find(name)._lifecycle.close_unused(even_busy=True) for name in names))

    def work(seed: int) -> None:
        made = Maker(seed)
        for round in range(40):
            collection = store.find(names[(seed + round) % len(names)])
            id = f"{seed}-{round}"
            sequence = collection.commit([made.upsert(id)]).result(30).sequences[0]
            found = search_dense(collection, made.vectors[id][0], 1).keys.tolist()
            if found != [collection.keys([id])[id]] or collection.sequence < sequence:
                problems.append(id)
        while sum(closed) < 40:
            if store.find(names[seed]).count(None) < 10:  # those that this thread wrote
                problems.append(names[seed])

    with ThreadPoolExecutor(6) as threads:
        closers = [threads.submit(close_all) for _ in range(2)]
        try:
            for one in [threads.submit(work, seed) for seed in range(4)]:
                one.result(60)
        finally:
            stop.set()
        for closer in closers:
            closer.result(30)
    assert problems == []
    assert sum(closed) >= 40
    assert [store.find(name).count(None) for name in names] == [40] * 4
    assert all(store.verify(name).ok for name in names)


def test_a_dropped_collection_is_closed_for_good_whoever_holds_it(store: EmbeddedStore) -> None:
    held = store.create("a", collection_config())
    with store.lease("a"):
        store.drop("a")
        with pytest.raises(Unavailable):
            held.keys(["x"])
    with pytest.raises(CollectionNotFound):
        store.find("a")
    assert store.create("a", collection_config()) is not held
    with pytest.raises(Unavailable):
        held.commit([])


def test_few_collections_are_all_opened_at_the_start_and_many_are_not(
    store: EmbeddedStore, open_store: OpenStore
) -> None:
    for name in ("a", "b", "c"):
        store.create(name, collection_config())
    store.close()
    few = open_store(max_open_collections=3)
    assert few.open_all()
    assert few.open_count == 3
    few.close()
    many = open_store(max_open_collections=2)
    assert not many.open_all()
    assert many.open_count == 0


def test_a_survey_tells_of_damage_and_opens_nothing(
    store: EmbeddedStore, open_store: OpenStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        store.create(name, collection_config())
    store.close()
    (tmp_path / "data" / "collections" / "b" / "collection.db").write_bytes(b"no database at all" * 1000)
    again = open_store(max_open_collections=2)
    with caplog.at_level(logging.ERROR):
        again.survey()
        wait_until(lambda: len(again.known()) == 3 and again.find("c")._lifecycle._facts is not None)
        with pytest.raises(DataCorrupted):
            again.open("b")
    assert [record.getMessage() for record in caplog.records if "'b' cannot be opened" in record.getMessage()]
    assert len(caplog.records) == 1, "the same damage is logged once"
    assert [one.name for one in again.known() if one.problem] == ["b"]
    assert again.open_count == 0
    again.drop("b")
    assert again.names() == ["a", "c"]


def test_without_a_descriptor_left_the_caller_is_told_to_come_back_and_no_segment_is_dropped(
    open_store: OpenStore, maker: Maker
) -> None:
    store = open_store(maintain=False)
    collection = store.create("a", collection_config())
    fill(collection, maker, 70)
    collection.flush_now()
    close_now(collection)
    with no_descriptors_left():
        with pytest.raises(Overloaded, match=r"limit of \d+ open files"):
            collection.keys(["d1"])
        with pytest.raises(Overloaded):
            collection._lifecycle.opened or store.open("a")
    assert collection.info().segment_count == 1
    assert collection.damage == ()
    assert collection.keys(["d1"])
    with no_descriptors_left(), pytest.raises(Overloaded), collection.reading(), collection.reading():
        pass


def test_a_collection_that_finds_no_descriptor_left_takes_the_place_of_unused_ones(
    open_store: OpenStore, maker: Maker
) -> None:
    store = open_store()
    for name in ("a", "d", "b", "c"):
        fill(store.create(name, collection_config()), maker, 1)
    wait_until(lambda: close_now(store.find("c")))
    with store.lease("b"):
        with no_descriptors_left():
            store.open("c")
        assert store.find("b").is_open
        assert not (store.find("a").is_open and store.find("d").is_open)


# numpy leaves a file unclosed where it has no descriptor for a second one.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_segment_that_cannot_be_read_for_want_of_a_descriptor_is_not_taken_for_damaged(
    open_store: OpenStore, maker: Maker
) -> None:
    store = open_store(maintain=False)
    collection = store.create("a", collection_config())
    fill(collection, maker, 70)
    collection.flush_now()
    close_now(collection)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    try:
        # The opening fails at a later file each time, until there are enough for all.
        for more in range(1, 12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + more, before[1]))
            try:
                store.open("a")
            except Overloaded:
                continue
            break
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert more > 3
    assert collection.damage == ()
    assert collection.info().segment_count == 1


def test_a_limit_of_files_that_is_too_low_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "limit", lambda: 100)
    with pytest.raises(Unavailable, match=f"limit of open files is 100.*at least {descriptors.LEAST_LIMIT}"):
        descriptors.check_limit()
    assert descriptors.share_of_collections() >= 0
