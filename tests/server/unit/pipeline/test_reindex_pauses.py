"""What pauses a reindex, and what lets it go on."""

from __future__ import annotations

import asyncio

import pytest

from shortlist_server.domain import Document, OverflowPolicy
from shortlist_server.errors import (
    OutOfSpace,
    Unavailable,
)
from shortlist_server.pipeline.reindex import portions
from shortlist_server.pipeline.reindex.room import Room
from shortlist_server.storage.base import CollectionStore, Lease

from .conftest import Bench, begin, texts


async def test_a_model_that_fails_pauses_the_build_until_it_works_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.1)
    bench.create()
    await bench.ingest(*texts(10))
    bench.new.down = True
    number, building = await begin(bench)
    await bench.until(lambda: bench.generation(number).progress.paused != "")
    at = bench.generation(number).progress
    assert (at.paused, at.paused_by_user, at.complete) == ("the model is away", False, False)
    assert (await bench.ingest(*texts(1, first=11)))[0].error is None
    bench.new.down = False
    await building
    assert bench.generation(number).progress.paused == ""
    assert bench.generation(number).progress.done_documents == 11


async def test_a_build_whose_model_is_not_loaded_says_so_and_goes_on_once_it_is(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(3))
    number = (await bench.begin_generation()).number
    await bench.close()
    bench.open(bench.old)
    await bench.reindexer.begin()
    await bench.until(lambda: bench.generation(number).progress.paused != "")
    assert "no embedder 'new' is loaded" in bench.generation(number).progress.paused
    await bench.close()
    bench.open()
    await bench.reindexer.begin()
    await bench.until(lambda: bench.generation(number).progress.complete)
    assert bench.generation(number).progress.paused == ""


async def test_a_full_disk_pauses_the_build(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.1)
    bench.create()
    await bench.ingest(*texts(3))
    collection = bench.collection
    full = OutOfSpace("the disk is full")
    real = type(collection).build
    refused: list[object] = []

    def build(*arguments: object, **named: object) -> object:
        if len(refused) < 2:
            refused.append(arguments)
            raise full
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(type(collection), "build", build)
    number, building = await begin(bench)
    paused: list[str] = []
    await bench.reindexer.build("docs", number, lambda progress: paused.append(progress.paused))
    await building
    assert "the disk is full" in paused
    assert bench.generation(number).progress.complete


async def test_a_build_leaves_room_on_the_disk_for_writes(
    bench: Bench, small_portions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.1)
    bench.create()
    await bench.ingest(*texts(30))
    number, room = (await bench.begin_generation()).number, [3]

    def free_bytes(_: Room) -> int:
        room[0] -= 1
        return max(room[0], 0)

    monkeypatch.setattr(Room, "free_bytes", free_bytes)
    building = asyncio.create_task(bench.reindexer.build("docs", number))
    await bench.until(lambda: bench.generation(number).progress.paused != "")
    at = bench.generation(number).progress
    assert "min_free_disk_bytes" in at.paused
    assert 0 < at.done_documents < 30
    assert [ack.error for ack in await bench.ingest(*texts(1, first=31))] == [None]
    room[0] = 1000
    await building
    assert bench.generation(number).progress.paused == ""


async def test_a_build_that_lacks_nothing_gives_its_generation_back_once_the_model_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.POLL_SECONDS", 0.05)
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr("shortlist_server.pipeline.setbacks.FIRST_SECONDS", 0.05)
    bench.create()
    number = (await bench.reindexed()).number
    bench.new.down = True
    bench.setbacks.note("docs", number, Unavailable("the model is away"))
    await asyncio.sleep(0.3)
    assert bench.setbacks.leaves_out("docs", number)
    assert bench.generation(number).progress.paused == ""
    bench.new.down = False
    await bench.until(lambda: not bench.setbacks.leaves_out("docs", number))


async def test_a_paused_build_gives_its_generation_back_and_stays_paused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.POLL_SECONDS", 0.05)
    monkeypatch.setattr("shortlist_server.pipeline.setbacks.FIRST_SECONDS", 0.05)
    bench.create()
    await bench.ingest(*texts(3))
    number = (await bench.begin_generation()).number
    await bench.reindexer.pause("docs", number, "it is noon")
    bench.setbacks.note("docs", number, Unavailable("the model is away"))
    await bench.until(lambda: not bench.setbacks.leaves_out("docs", number))
    at = bench.generation(number).progress
    assert (at.paused, at.paused_by_user, at.complete) == ("it is noon", True, False)


async def test_a_build_that_refuses_its_first_documents_all_pauses_until_a_caller_goes_on(
    bench: Bench, small_portions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.REFUSED_DOCUMENTS", 12)
    bench.create(overflow=OverflowPolicy.ERROR)
    long = [Document(id=f"d{i}", text="word " * 50) for i in range(20)]
    await bench.ingest(*long)
    number = (await bench.begin_generation(max_tokens=16)).number
    building = asyncio.create_task(bench.reindexer.build("docs", number))
    await bench.until(lambda: bench.generation(number).progress.paused != "")
    at = bench.generation(number).progress
    assert (at.done_documents, at.failed_documents, at.paused_by_user) == (10, 10, True)
    assert "all refused" in at.paused
    await bench.reindexer.resume("docs", number)
    assert (await building).progress.failed_documents == 20


async def test_a_pause_by_a_caller_outlasts_a_failure_that_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.05)
    bench.create()
    await bench.ingest(*texts(3))
    bench.new.down = True
    number, building = await begin(bench)
    await bench.until(lambda: bench.generation(number).progress.paused == "the model is away")
    # Past the job, as if it had looked just before.
    await asyncio.wrap_future(bench.collection.pause_build(number, "it is noon", by_user=True))
    bench.new.down = False
    await asyncio.sleep(0.5)
    at = bench.generation(number).progress
    assert (at.paused, at.paused_by_user, at.done_documents) == ("it is noon", True, 0)
    building.cancel()


async def test_a_build_without_its_model_does_not_keep_the_collection_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.02)
    bench.create()
    await bench.ingest(*texts(3))
    number = (await bench.begin_generation()).number
    await bench.close()
    bench.open(bench.old)
    await bench.reindexer.begin()
    await bench.until(lambda: bench.generation(number).progress.paused != "")
    leases: list[str] = []
    real = bench.store.try_lease

    def try_lease(name: str) -> Lease[CollectionStore] | None:
        leases.append(name)
        return real(name)

    monkeypatch.setattr(bench.store, "try_lease", try_lease)
    await asyncio.sleep(0.5)
    assert leases == []


async def test_collections_are_built_so_many_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.reindexer._turns = asyncio.Semaphore(1)
    bench.create()
    await bench.ingest(*texts(3))
    number, building = await begin(bench)
    async with bench.reindexer._turns:
        await asyncio.sleep(0.2)
        assert bench.generation(number).progress.done_documents == 0
    await building


async def test_writes_that_leave_a_generation_out_make_no_crowd_of_looks(bench: Bench) -> None:
    bench.create()
    number = (await bench.begin_generation()).number
    before = len(asyncio.all_tasks())
    for _ in range(100):
        bench.setbacks.lags("docs")
    assert len(asyncio.all_tasks()) <= before + 1
    await bench.until(lambda: bench.reindexer.progress("docs", number) is not None)


async def test_a_generation_that_is_gone_leaves_no_setback_to_its_namesake(bench: Bench) -> None:
    bench.create()
    number = (await bench.reindexed()).number
    bench.setbacks.note("docs", number, Unavailable("the model is away"))
    await bench.reindexer.cancel("docs", number)
    await bench.until(lambda: not bench.setbacks.leaves_out("docs", number))


async def test_a_build_whose_model_hangs_after_a_failure_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(portions, "PROBE_SECONDS", 0.1)
    bench.create()
    await bench.ingest(*texts(3))
    bench.new.down = True
    number, building = await begin(bench)
    await bench.until(lambda: bench.generation(number).progress.paused == "the model is away")
    bench.new.gate.clear()
    bench.new.down = False
    await bench.until(lambda: "did not answer within 0.1 s" in bench.generation(number).progress.paused)
    bench.new.gate.set()
    await building


async def test_a_collection_that_cannot_be_used_for_a_moment_only_delays_its_build(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.reindex.job.FIRST_RETRY_SECONDS", 0.1)
    bench.create()
    await bench.ingest(*texts(3))
    collection = bench.collection
    looks: list[int] = []

    def find(name: str) -> CollectionStore:
        looks.append(1)
        if len(looks) < 3:
            raise Unavailable("it is being repaired")
        return collection

    number = (await bench.begin_generation()).number
    monkeypatch.setattr(bench.store, "find", find)
    assert (await bench.reindexer.build("docs", number)).progress.complete
    assert len(looks) > 2
