"""Both clients' ingest against a real server that stays up; ``tests/crash`` has the ones that do not."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import shortlist
from shortlist import AckStatus, Client, Deletion, Document, IngestSummary


def documents(count: int, *, start: int = 0) -> list[Document]:
    return [Document(id=f"d{n}", title=f"Title {n}", text=f"text number {n}") for n in range(start, start + count)]


async def test_each_operation_gets_its_ack_in_order(client: Any, collection: str) -> None:
    acks = [ack async for ack in client.ingest(collection, documents(500))]
    assert [ack.index for ack in acks] == list(range(500))
    assert {ack.status for ack in acks} == {AckStatus.DURABLE}
    assert all(ack.ok and ack.sequence for ack in acks)
    assert await client.count(collection) == 500


async def test_unchanged_documents_are_not_written_again(client: Any, collection: str) -> None:
    await client.ingest(collection, documents(20)).finish()
    summary = await client.ingest(collection, documents(20)).finish()
    assert (summary.acked, summary.unchanged, summary.complete) == (20, 20, True)


async def test_deletions_keep_their_place_among_the_documents(client: Any, collection: str) -> None:
    run = client.ingest(collection, [*documents(2), Deletion("d0"), {"id": "d1", "text": "newer"}])
    await run.finish()
    assert [(d.id, d.text) async for d in client.list(collection)] == [("d1", "newer")]


async def test_a_poisonous_mix_fails_one_by_one(client: Any, collection: str) -> None:
    poison: list[Any] = [
        Document(id="empty"),
        Document(id="huge", text="word " * 2_000_000),
        Document(id="surrogate", text="\udcff"),
        Document(id="short", vector=[1.0]),
        Document(id="nan", vector=[float("nan")] * 256),
        Document(id="keys", text="x", metadata={f"k{n}": n for n in range(1000)}),
        Document(id="deep", text="x", metadata=_nested(40)),
        Document(id="deeper", text="x", metadata=_nested(500)),
        Document(id="control\x00", text="x"),
        Document(id="", text="x"),
        Document(id="x" * 600, text="x"),
        {"text": "no id"},
        object(),
    ]
    mixed = list(itertools.chain.from_iterable(zip(poison, documents(len(poison)), strict=True)))
    twice = [Document(id="twice", text="first"), Document(id="twice", text="last")]
    acks = [ack async for ack in client.ingest(collection, [*mixed, *twice])]
    assert [ack.ok for ack in acks] == [False, True] * len(poison) + [True, True]
    for ack in acks[: len(mixed) : 2]:
        assert isinstance(ack.error, shortlist.InvalidArgument), ack
    assert acks[-2].status in {AckStatus.SUPERSEDED, AckStatus.DURABLE}
    assert acks[-1].status is AckStatus.DURABLE
    assert await client.count(collection) == len(poison) + 1
    found, _ = await client.get(collection, ["twice", "none"])
    assert found.text == "last"


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


async def test_failures_nobody_looked_at_raise_at_the_end(client: Any, collection: str) -> None:
    operations = [*documents(3), Document(id="empty")]
    with pytest.raises(shortlist.IngestFailed, match="1 of 4") as caught:
        await client.ingest(collection, operations).finish()
    assert [ack.id for ack in caught.value.summary.failures] == ["empty"]
    assert caught.value.summary.acked == 4
    summary = await client.ingest(collection, operations).finish(check=False)
    assert summary.failed == 1


async def test_failures_that_were_iterated_over_do_not_raise(client: Any, collection: str) -> None:
    run = client.ingest(collection, [Document(id="empty"), *documents(1)])
    acks = [ack async for ack in run]
    assert [ack.status for ack in acks] == ["failed", "durable"]
    assert (await run.finish()).failed == 1


async def test_a_with_block_finishes(client: Any, collection: str) -> None:
    async with client.ingest(collection, documents(5)):
        pass
    assert await client.count(collection) == 5
    with pytest.raises(shortlist.IngestFailed):
        async with client.ingest(collection, [Document(id="empty")]):
            pass


async def test_a_dry_run_writes_nothing(client: Any, collection: str) -> None:
    summary = await client.ingest(collection, [*documents(5), Document(id="empty")], dry_run=True).finish(check=False)
    assert (summary.valid, summary.failed, summary.tokens > 0) == (5, 1, True)
    assert await client.count(collection) == 0


async def test_the_source_is_read_no_further_than_the_server_allows(client: Any, collection: str) -> None:
    read = 0

    def source() -> Iterator[Document]:
        nonlocal read
        for document in documents(200):
            read += 1
            yield Document(id=document.id, text="word " * 2_000)

    run = client.ingest(collection, source())
    async for _ in run:
        break
    assert read < 200
    await run.close()


async def test_what_the_source_raises_comes_out_after_what_came_before_it(client: Any, collection: str) -> None:
    def source() -> Iterator[Document]:
        yield from documents(10)
        raise LookupError("the database is gone")

    run = client.ingest(collection, source())
    seen = []
    with pytest.raises(LookupError):
        async for ack in run:
            seen.append(ack)
    assert len(seen) == 10
    assert not run.summary.complete
    with pytest.raises(LookupError):
        await run.finish()
    assert await client.count(collection) == 10


async def test_a_run_that_was_cancelled_is_not_complete_and_cancels_nobody_else(target: str) -> None:
    async def source() -> AsyncIterator[Document]:
        yield documents(1)[0]
        await asyncio.Event().wait()

    async with shortlist.AsyncClient(target) as client:
        await client.create_collection("cancelled")
        with pytest.raises(shortlist.IngestInterrupted, match="closed before its end"):
            async with client.ingest("cancelled", source()) as run:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        async for ack in run:
                            assert ack.ok
        assert run.summary.acked == 1
        await client.delete_collection("cancelled")


def test_a_run_that_was_interrupted_is_not_complete_and_interrupts_once(target: str) -> None:
    def source() -> Iterator[Document]:
        yield documents(1)[0]
        raise KeyboardInterrupt

    with Client(target) as client:
        client.create_collection("interrupted")
        run = client.ingest("interrupted", source())
        with pytest.raises(KeyboardInterrupt):
            run.finish()
        with pytest.raises(shortlist.IngestInterrupted, match="closed before its end"):
            run.finish()
        client.delete_collection("interrupted")


async def test_a_missing_collection_is_said_at_once(client: Any) -> None:
    with pytest.raises(shortlist.CollectionNotFound):
        await client.ingest("nowhere", documents(1)).finish()


async def test_an_empty_source_is_complete(client: Any, collection: str) -> None:
    summary = await client.ingest(collection, []).finish()
    assert (summary.acked, summary.complete) == (0, True)


async def test_a_name_goes_on_and_resume_skips(client: Any, collection: str) -> None:
    await client.ingest(collection, documents(10), stream="daily").finish()
    summary = await client.ingest(collection, documents(5, start=10), stream="daily").finish()
    assert summary.durable == 5
    summary = await client.ingest(collection, documents(20), stream="daily", resume=True).finish()
    assert (summary.skipped, summary.durable, summary.complete) == (15, 5, True)
    assert await client.count(collection) == 20


async def test_a_second_client_takes_a_stream_over(client: Any, collection: str) -> None:
    first = client.ingest(collection, documents(300), stream="daily")
    async for _ in first:
        break
    second = client.ingest(collection, documents(1, start=1000), stream="daily")
    assert (await second.finish()).acked == 1
    await first.close()


async def test_the_client_that_lost_a_stream_is_told_so_and_lets_the_newer_one_finish(
    connect: Any, collection: str
) -> None:
    """Either of the two runs would come back after a mere break."""
    older = connect().ingest(collection, documents(20_000), stream="daily")
    async for _ in older:
        break
    newer = connect().ingest(collection, documents(300, start=30_000), stream="daily")
    async for _ in newer:
        break
    with pytest.raises(shortlist.StreamConflict, match="another client opened") as caught:
        await older.finish()
    assert (caught.value.retryable, caught.value.code) == (False, grpc.StatusCode.FAILED_PRECONDITION)
    summary = await newer.finish()
    assert (summary.acked, summary.reconnects, summary.complete) == (300, 0, True)


async def test_a_checkpoint_lets_another_run_go_on(client: Any, collection: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    run = client.ingest(collection, documents(300), checkpoint=path)
    async for ack in run:
        if ack.index == 99:
            break
    await run.close()
    assert path.exists()
    again = client.ingest(collection, documents(300), checkpoint=path)
    seen = [ack.index async for ack in again]
    assert seen == list(range(99, 300))
    assert again.stream == run.stream
    assert again.summary.acked == 300
    assert not path.exists()
    assert await client.count(collection) == 300


async def test_a_checkpoint_of_other_documents_skips_none(client: Any, collection: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    run = client.ingest(collection, documents(300), checkpoint=path)
    async for ack in run:
        if ack.index == 99:
            break
    await run.close()
    with pytest.raises(shortlist.ResumeMismatch, match="the first 99 operations"):
        await client.ingest(collection, documents(300, start=1000), checkpoint=path).finish()
    assert (await client.ingest(collection, documents(300), checkpoint=path).finish()).acked == 300


async def test_progress_is_told(client: Any, collection: str) -> None:
    seen: list[IngestSummary] = []
    await client.ingest(collection, documents(50), progress=seen.append).finish()
    assert seen[-1].acked == 50
    assert [summary.acked for summary in seen] == sorted(summary.acked for summary in seen)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_ingest_that_nobody_uses_warns(client: Any, collection: str) -> None:
    with pytest.warns(RuntimeWarning, match="not used to its end"):
        client.ingest(collection, documents(1))
        gc.collect()


def test_the_source_is_read_in_the_callers_thread(target: str) -> None:
    threads = set()

    def source() -> Iterator[Document]:
        for document in documents(3):
            threads.add(threading.current_thread())
            yield document

    with Client(target) as client:
        client.create_collection("threads")
        client.ingest("threads", source()).finish()
        client.delete_collection("threads")
    assert threads == {threading.current_thread()}


async def test_a_slow_async_source_does_not_hold_acks_up(target: str) -> None:
    waiting = asyncio.Event()

    async def source() -> AsyncIterator[Document]:
        yield documents(1)[0]
        await waiting.wait()
        yield documents(1, start=1)[0]

    async with shortlist.AsyncClient(target) as client:
        await client.create_collection("slow")
        run = client.ingest("slow", source())
        first = await asyncio.wait_for(anext(run), 10)
        assert first.id == "d0"
        waiting.set()
        assert (await run.finish()).acked == 2
        await client.delete_collection("slow")
