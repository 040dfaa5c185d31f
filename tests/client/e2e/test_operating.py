"""Both clients operate a real server: what it is, verification, backup and restore."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import shortlist
from shortlist import CollectionRecall, CopyProgress, Document, RecallEstimate, SearchDefaults, VerifyProgress
from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import operation_pb2, operation_service_pb2
from shortlist_server.testing import server

NOTES = [Document(id=f"n{i}", text=f"note{i} about something") for i in range(30)]


@pytest.fixture
async def notes(client: Any, collection: str) -> str:
    assert (await client.ingest(collection, NOTES).finish()).durable == 30
    return collection


@pytest.fixture
async def saved(client: Any, notes: str) -> AsyncIterator[str]:
    """A backup of the collection ``notes``, of the same name."""
    await client.backup(notes, [notes])
    yield notes


async def test_the_server_says_what_it_is(client: Any, notes: str) -> None:
    info = await client.server_info()
    assert info.version
    assert info.start_time.utcoffset() is not None
    assert info.startup_seconds > 0
    assert (info.embedders[0].name, info.embedders[0].dimension) == ("hashing", 256)
    assert [model.name for model in info.rerankers] == ["late-interaction"]
    assert info.collection_count >= 1


async def test_the_recall_of_a_collection_that_is_searched_exactly_is_not_known(client: Any, notes: str) -> None:
    await client.search(notes, "note3")
    recall = await client.recall(notes)
    unknown = RecallEstimate(ef=128, recall=None, lower=0.0, upper=1.0, query_count=0, check_count=0)
    assert recall == CollectionRecall(target=0.98, unfiltered=unknown, filtered=unknown)
    await client.update_collection(notes, SearchDefaults(recall_target=0.9))
    assert (await client.get_collection(notes)).config.search_defaults == SearchDefaults(recall_target=0.9)
    assert (await client.recall(notes)).target == 0.9
    with pytest.raises(shortlist.CollectionNotFound):
        await client.recall("absent")


async def test_verification_reports_a_collection_and_tells_its_steps(client: Any, notes: str) -> None:
    steps: list[VerifyProgress] = []
    (report,) = await client.verify(notes, sample=5, progress=steps.append)
    assert (report.collection, report.ok, report.problems) == (notes, True, ())
    assert (report.document_count, report.passage_count) == (30, 30)
    assert report.segment_passage_count + report.growing_passage_count == 30
    assert report.checks
    # Not every step of so small a collection is seen, but the last one is.
    assert steps[-1] == VerifyProgress(collection=notes, step="reachability")


async def test_verification_without_a_name_is_of_all_collections(client: Any, notes: str) -> None:
    names = [made.name async for made in client.list_collections()]
    assert [report.collection for report in await client.verify(repair=True)] == names


async def test_a_backup_brings_back_what_was_deleted(client: Any, notes: str) -> None:
    copied: list[CopyProgress] = []
    made = await client.backup(notes, [notes], progress=copied.append)
    assert made.name == notes
    (entry,) = made.collections
    assert (entry.name, entry.sequence, entry.document_count, entry.passage_count) == (notes, 30, 30, 30)
    assert copied[-1].collection == notes
    await client.delete(notes, ["n3"])
    again = await client.restore(notes, notes, new_name=f"{notes}-again", progress=copied.append)
    assert (again.name, again.document_count) == (f"{notes}-again", 30)
    assert copied[-1].total_bytes >= copied[-1].done_bytes > 0
    assert (await client.search(again.name, "note3"))[0].id == "n3"
    await client.delete_collection(again.name)


async def test_backups_are_listed_newest_first_page_by_page(client: Any, saved: str) -> None:
    await client.backup(f"{saved}-2", saved)
    pages = [page async for page in client.list_backups(page_size=1).pages()]
    assert [backup.name for page in pages for backup in page][:2] == [f"{saved}-2", saved]
    assert all(len(page) <= 1 for page in pages)


async def test_what_cannot_be_done_is_an_error_of_the_tree(client: Any, saved: str) -> None:
    with pytest.raises(shortlist.InvalidArgument, match="there is a backup"):
        await client.backup(saved)
    with pytest.raises(shortlist.InvalidArgument) as caught:
        await client.backup("../out")
    assert caught.value.field == "name"
    with pytest.raises(shortlist.CollectionNotFound):
        await client.backup("x", ["absent"])
    with pytest.raises(shortlist.CollectionNotFound):
        await client.verify("absent")
    with pytest.raises(shortlist.InvalidArgument):
        await client.verify("")
    with pytest.raises(shortlist.InvalidArgument) as caught:
        await client.verify(saved, sample=-1)
    assert caught.value.field == "sample"
    with pytest.raises(shortlist.InvalidArgument, match="no backup"):
        await client.restore("absent", saved)
    with pytest.raises(shortlist.CollectionExists):
        await client.restore(saved, saved)


async def test_a_long_call_ends_at_a_deadline_that_is_given(client: Any, notes: str) -> None:
    with pytest.raises(shortlist.DeadlineExceeded):
        # A short call can be over before the transport looks at the clock; not twenty times.
        for _ in range(20):
            await client.verify(notes, timeout_seconds=1e-6)
    with pytest.raises(shortlist.InvalidArgument):
        await client.verify(notes, timeout_seconds=0)


async def test_what_progress_raises_comes_out_and_the_client_goes_on(client: Any, notes: str) -> None:
    def stop(_: VerifyProgress) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await client.verify(notes, progress=stop)
    assert (await client.verify(notes))[0].ok


MANY = {f"q{number}": "note about" for number in range(5000)}


async def test_an_operation_is_started_listed_cancelled_and_waited_for(client: Any, notes: str) -> None:
    started = await client.start_evaluate(notes, MANY, {query: {"n1": 1} for query in MANY})
    assert (started.kind, started.collection, started.done) == ("evaluate", notes, False)
    assert [one.name async for one in client.list_operations(collection=notes, kind="evaluate")] == [started.name]
    with pytest.raises(shortlist.DeadlineExceeded):
        await client.wait_operation(started.name, timeout_seconds=0.1)
    assert (await client.cancel_operation(started.name)).name == started.name
    ended = await client.wait_operation(started.name)
    assert (ended.state, ended.result) == ("cancelled", None)
    assert isinstance(ended.error, shortlist.OperationCancelled)
    assert (await client.get_operation(started.name)).end_time == ended.end_time
    with pytest.raises(shortlist.OperationNotFound):
        await client.wait_operation("operations/absent")


async def test_the_forms_that_only_start_do_what_the_others_do(client: Any, notes: str) -> None:
    for kind, started in (
        ("verify", await client.start_verify(notes)),
        ("backup", await client.start_backup(f"{notes}-3", [notes])),
    ):
        ended = await client.wait_operation(started.name)
        assert (ended.kind, ended.state, ended.collection) == (kind, "succeeded", notes)
    assert ended.result.collections[0].document_count == 30
    restored = await client.start_restore(f"{notes}-3", notes, new_name=f"{notes}-4")
    ended = await client.wait_operation(restored.name)
    assert (ended.collection, ended.result.name, ended.result.document_count) == (f"{notes}-4", f"{notes}-4", 30)
    await client.delete_collection(f"{notes}-4")


async def test_a_cancelled_task_cancels_its_operation(target: str) -> None:
    async with shortlist.AsyncClient(target) as client:
        await client.create_collection("tasks")
        await client.ingest("tasks", NOTES).finish()
        begun = asyncio.Event()
        evaluating = asyncio.create_task(
            client.evaluate("tasks", MANY, {query: {"n1": 1} for query in MANY}, progress=lambda _: begun.set())
        )
        await begun.wait()
        evaluating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await evaluating
        # Ended by now: the client waits for it.
        (found,) = [one async for one in client.list_operations(collection="tasks", kind="evaluate")]
        assert found.state == "cancelled"
        await client.delete_collection("tasks")


async def test_a_closed_client_verifies_nothing(connect: Any) -> None:
    client = connect()
    await client.close()
    with pytest.raises(shortlist.ClientClosed):
        await client.verify()


async def test_damage_is_told_and_repaired(connect: Any, tmp_path: Path) -> None:
    with server(tmp_path / "data", segment_min_passages=10) as running:
        client = connect(running.target)
        await client.create_collection("notes")
        await client.ingest("notes", NOTES).finish()
        segment = await _taken_over(client, tmp_path / "data" / "collections" / "notes" / "segments")
        shutil.rmtree(segment)
        (report,) = await client.verify("notes")
        assert not report.ok
        assert segment.name in report.problems[0].name
        (report,) = await client.verify("notes", repair=True)
        assert report.ok, report.problems
        assert report.repairs


async def _taken_over(client: Any, folder: Path) -> Path:
    """A segment that the server searches: a folder alone may have just been written."""
    while True:
        found = list(folder.glob("[!.]*"))
        if found and len(found) == (await client.get_collection("notes")).segment_count:
            return found[0]
        await asyncio.sleep(0.05)


class Stalling(grpc.GenericRpcHandler):
    """Starts an operation, tells its progress once, and then nothing."""

    OPERATION = operation_pb2.Operation(
        name="operations/x",
        state=operation_pb2.OPERATION_STATE_RUNNING,
        verify_progress=operation_pb2.VerifyProgress(collection="notes"),
    )

    def __init__(self) -> None:
        self.stop = threading.Event()

    def service(self, details: Any) -> Any:
        def start(request: bytes, context: grpc.ServicerContext) -> bytes:
            return pb.VerifyResponse(operation=self.OPERATION).SerializeToString()

        def wait(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield operation_service_pb2.WaitOperationResponse(operation=self.OPERATION).SerializeToString()
            self.stop.wait(30)

        if details.method.endswith("WaitOperation"):
            return grpc.unary_stream_rpc_method_handler(wait)
        return grpc.unary_unary_rpc_method_handler(start)


async def test_a_server_that_goes_away_ends_a_long_call(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist._operation_calls.RECONNECT_SECONDS", 0.5)
    stalling = Stalling()
    bare = grpc.server(ThreadPoolExecutor(2), handlers=[stalling])
    client = connect(f"127.0.0.1:{bare.add_insecure_port('127.0.0.1:0')}")
    bare.start()
    try:
        with pytest.raises((shortlist.ServerUnavailable, shortlist.Cancelled)):
            await client.verify(progress=lambda _: bare.stop(None))
    finally:
        stalling.stop.set()
