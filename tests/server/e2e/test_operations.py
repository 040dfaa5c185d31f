"""Operations of a real server: followed, found again, cancelled at chosen points, seen only by whom they concern."""

from __future__ import annotations

import dataclasses
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from shortlist import (
    Backup,
    Client,
    CollectionConfig,
    CollectionNotFound,
    CopyProgress,
    DeadlineExceeded,
    Document,
    InvalidArgument,
    Operation,
    OperationCancelled,
    OperationNotFound,
    OperationProgress,
    Overloaded,
    PermissionDenied,
)
from shortlist.v1 import operation_service_pb2, operation_service_pb2_grpc
from shortlist_server.keys import Scope, new_key
from shortlist_server.testing import TestServer, server

from .conftest import Gate, held, open_when_cancelling


def left_of_backups(running: TestServer) -> list[str]:
    folder = running.data_dir / "backups"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def cancelled_at(client: Client, gate: Gate, name: str) -> Operation:
    """Cancels an operation that is held at a gate; returns it at its end."""
    assert gate.reached.wait(30)
    assert client.cancel_operation(name).state == "cancelling"
    gate.opened.set()
    return client.wait_operation(name, timeout_seconds=30)


def test_an_operation_is_followed_to_its_result(running: TestServer, client: Client) -> None:
    seen: list[OperationProgress] = []
    with held(running, "backup:collection") as gate:
        started = client.start_backup("one")
        assert (started.kind, started.collection, started.done) == ("backup", "", False)
        assert gate.reached.wait(30)
        now = client.get_operation(started.name)
        assert (now.state, now.result) == ("running", None)
        assert isinstance(now.progress, CopyProgress) and now.progress.collection == "notes"
    ended = client.wait_operation(started.name, progress=seen.append, timeout_seconds=30)
    assert ended.state == "succeeded" and ended.end_time is not None and ended.end_time >= ended.create_time
    assert isinstance(ended.result, Backup) and ended.result.collections[0].document_count == 3
    assert seen and isinstance(seen[-1], CopyProgress)
    assert client.get_operation(started.name) == ended
    (listed,) = client.list_operations()
    assert (listed.name, listed.state, listed.result) == (started.name, "succeeded", None)


def test_an_operation_goes_on_without_its_caller_and_is_found_again(running: TestServer, client: Client) -> None:
    with held(running, "backup:collection") as gate:
        with Client(running.target) as gone:
            name = gone.start_backup("one").name
            assert gate.reached.wait(30)
            with pytest.raises(DeadlineExceeded):
                gone.wait_operation(name, timeout_seconds=0.2)
        (found,) = client.list_operations(state="running")
        assert found.name == name
    assert client.wait_operation(name, timeout_seconds=30).state == "succeeded"
    assert left_of_backups(running) == ["one"]


@pytest.mark.parametrize("point", ["backup:collection", "backup:written"])
def test_a_cancelled_backup_leaves_nothing(running: TestServer, client: Client, point: str) -> None:
    with held(running, point) as gate:
        ended = cancelled_at(client, gate, client.start_backup("one").name)
    assert ended.state == "cancelled"
    assert isinstance(ended.error, OperationCancelled)
    assert left_of_backups(running) == []
    assert client.backup("one").name == "one"


def test_a_cancelled_restore_leaves_nothing(running: TestServer, client: Client) -> None:
    client.backup("one")
    with held(running, "restore:copied") as gate:
        started = client.start_restore("one", "notes", new_name="again")
        assert started.collection == "again"
        ended = cancelled_at(client, gate, started.name)
    assert ended.state == "cancelled"
    assert [path.name for path in (running.data_dir / "collections").iterdir()] == ["notes"]
    with pytest.raises(CollectionNotFound):
        client.get_collection("again")
    assert client.restore("one", "notes", new_name="again").document_count == 3


def test_ten_cancelled_backups_do_not_exist_afterwards(running: TestServer, client: Client) -> None:
    for number in range(10):
        with held(running, "backup:written") as gate:
            assert cancelled_at(client, gate, client.start_backup(f"b{number}").name).state == "cancelled"
    assert left_of_backups(running) == []
    assert list(client.list_backups()) == []


def test_what_has_ended_is_not_cancelled_any_more(running: TestServer, client: Client) -> None:
    started = client.start_backup("one")
    ended = client.wait_operation(started.name)
    assert client.cancel_operation(started.name) == dataclasses.replace(ended, result=None)
    assert client.get_operation(started.name) == ended
    assert ended.state == "succeeded"
    assert left_of_backups(running) == ["one"]


def test_what_waits_for_its_turn_is_pending_and_cancelled_at_once(running: TestServer, client: Client) -> None:
    with held(running, "backup:collection") as gate:
        # Two run at the same time.
        names = [client.start_backup(f"b{number}").name for number in range(3)]
        assert gate.reached.wait(30)
        assert client.get_operation(names[2]).state == "pending"
        assert client.cancel_operation(names[2]).state == "cancelled"
    assert [client.wait_operation(name).state for name in names] == ["succeeded", "succeeded", "cancelled"]
    assert left_of_backups(running) == ["b0", "b1"]


def test_those_who_wait_take_no_place_of_searches_and_have_a_limit_of_their_own(tmp_path: Path) -> None:
    with server(tmp_path / "data", max_concurrent_rpcs=2) as running, Client(running.target) as client:
        client.create_collection("notes")
        with held(running, "backup:collection") as gate, ThreadPoolExecutor(64) as threads:
            name = client.start_backup("one").name
            assert gate.reached.wait(30)
            shown: list[OperationProgress] = []
            waits = [threads.submit(client.wait_operation, name, progress=shown.append) for _ in range(64)]
            while len(shown) < 64:
                time.sleep(0.01)
            assert client.search("notes", "x").hits == ()
            with pytest.raises(grpc.RpcError) as caught, grpc.insecure_channel(running.target) as channel:
                stub = operation_service_pb2_grpc.OperationServiceStub(channel)
                next(stub.WaitOperation(operation_service_pb2.WaitOperationRequest(name=name), timeout=30))
            assert "max_operation_waits_per_caller" in (caught.value.details() or "")
            gate.opened.set()
            assert {wait.result(30).state for wait in waits} == {"succeeded"}


def test_too_many_operations_are_refused_with_a_time_to_wait(running: TestServer, client: Client) -> None:
    with held(running, "backup:collection"):
        # One caller may have half of six.
        names = [client.start_backup(f"b{number}").name for number in range(3)]
        with pytest.raises(Overloaded, match="max_operations") as caught:
            client.start_verify()
        assert caught.value.retry_after_seconds and caught.value.metadata["setting"] == "max_operations"
    for name in names:
        client.wait_operation(name)
    assert client.verify()[0].ok


def test_whoever_is_interrupted_while_waiting_cancels_the_operation(running: TestServer, client: Client) -> None:
    def interrupt(_: CopyProgress) -> None:
        open_when_cancelling(running, gate)
        raise KeyboardInterrupt

    with held(running, "backup:written") as gate, pytest.raises(KeyboardInterrupt):
        client.backup("one", progress=interrupt)
    (found,) = client.list_operations()
    assert found.state == "cancelled"
    assert left_of_backups(running) == []


def test_a_backup_that_takes_too_long_is_cancelled(running: TestServer, client: Client) -> None:
    with held(running, "backup:written") as gate:
        open_when_cancelling(running, gate)
        with pytest.raises(DeadlineExceeded):
            client.backup("one", timeout_seconds=0.4)
    (found,) = client.list_operations()
    assert found.state == "cancelled"
    assert left_of_backups(running) == []


def test_one_that_somebody_else_cancels_is_an_error_of_its_own(running: TestServer, client: Client) -> None:
    with held(running, "backup:collection") as gate, ThreadPoolExecutor(1) as threads:
        backup = threads.submit(client.backup, "one")
        assert gate.reached.wait(30)
        (found,) = client.list_operations()
        cancelled_at(client, gate, found.name)
        with pytest.raises(OperationCancelled) as caught:
            backup.result(30)
    assert caught.value.code is grpc.StatusCode.CANCELLED


def test_an_operation_that_fails_has_the_error_of_a_failed_call(running: TestServer, client: Client) -> None:
    with held(running, "backup:written") as gate:
        first = client.start_backup("one")
        assert gate.reached.wait(30)
        ended = client.wait_operation(client.start_backup("one").name)
    assert ended.state == "failed"
    assert isinstance(ended.error, InvalidArgument) and "is being made" in ended.error.message
    assert ended.error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert client.wait_operation(first.name).state == "succeeded"


def test_after_a_restart_operations_are_unknown(tmp_path: Path) -> None:
    with server(tmp_path) as running, Client(running.target) as client:
        name = client.start_verify().name
        assert client.wait_operation(name).state == "succeeded"
    with server(tmp_path) as running, Client(running.target) as client:
        for call in (client.get_operation, client.cancel_operation, client.wait_operation):
            with pytest.raises(OperationNotFound, match="restarted"):
                call(name)
        assert list(client.list_operations()) == []
        with pytest.raises(InvalidArgument) as caught:
            client.get_operation("backups/x")
        assert caught.value.field == "name"


def test_a_stop_cancels_operations_and_those_who_wait_learn_of_it(tmp_path: Path) -> None:
    running = TestServer(tmp_path)
    running.start()
    with Client(running.target) as client, ThreadPoolExecutor(1) as threads:
        client.create_collection("notes")
        with held(running, "backup:written") as gate:
            backup = threads.submit(client.backup, "one")
            assert gate.reached.wait(30)
            open_when_cancelling(running, gate)
            running.stop(20.0)
            with pytest.raises(OperationCancelled):
                backup.result(30)
    assert list((tmp_path / "backups").iterdir()) == []


def test_operations_are_listed_newest_first_page_by_page(running: TestServer, client: Client) -> None:
    names = [client.start_verify("notes" if number % 2 else None).name for number in range(1)]
    for number in range(4):
        name = client.start_verify("notes").name if number % 2 else client.start_backup(f"b{number}").name
        client.wait_operation(name)
        names.append(name)
    client.wait_operation(names[0])
    pages = [[one.name for one in page] for page in client.list_operations(page_size=2).pages()]
    assert pages == [names[:2:-1], names[2:0:-1], names[:1]]
    assert [one.name for one in client.list_operations(kind="backup")] == [names[3], names[1]]
    assert list(client.list_operations(state="failed")) == []
    # What is about every collection is about this one, too.
    assert [one.name for one in client.list_operations(collection="notes")] == names[::-1]
    assert [one.name for one in client.list_operations(collection="other")] == [names[3], names[1], names[0]]
    assert list(client.list_operations(state="paused")) == []


def test_an_operation_is_there_only_for_keys_that_may_use_its_collections(tmp_path: Path) -> None:
    every, every_entry = new_key("every", Scope)
    granted, granted_entry = new_key("granted", Scope, ["mine"])
    reader, reader_entry = new_key("reader", [Scope.READ, Scope.WRITE])
    entries = tuple(key.entry() for key in (every_entry, granted_entry, reader_entry))
    with (
        server(tmp_path, api_keys=entries) as running,
        Client(running.target, api_key=every) as client,
        Client(running.target, api_key=granted) as other,
        Client(running.target, api_key=reader) as third,
    ):
        for name in ("mine", "theirs"):
            client.create_collection(name)
        mine, theirs, both, all_ = (
            client.start_verify("mine"),
            client.start_verify("theirs"),
            client.start_backup("both", ["mine", "theirs"]),
            client.start_verify(),
        )
        for one in (mine, theirs, both, all_):
            assert client.wait_operation(one.name).state == "succeeded"
        assert [one.name for one in other.list_operations()] == [mine.name]
        assert other.get_operation(mine.name).state == "succeeded"
        absent = "operations/absent"
        for call in (other.get_operation, other.cancel_operation, other.wait_operation):
            told = set()
            for name in (theirs.name, both.name, all_.name, absent):
                with pytest.raises(OperationNotFound) as caught:
                    call(name)
                told.add(caught.value.message.replace(name, "NAME"))
            assert len(told) == 1
        with pytest.raises(PermissionDenied):
            list(other.list_operations(collection="theirs"))
        for call in (third.get_operation, third.cancel_operation, third.wait_operation):
            with pytest.raises(PermissionDenied):
                call(mine.name)


def test_the_metrics_count_operations(tmp_path: Path) -> None:
    with server(tmp_path, metrics_listen="127.0.0.1:0") as running, Client(running.target) as client:
        client.verify()
        with urllib.request.urlopen(f"http://127.0.0.1:{running._server.metrics_port}/metrics") as page:
            shown = page.read().decode()
    assert "shortlist_operations_unfinished 0.0" in shown
    assert 'shortlist_operations_ended_total{kind="verify",state="succeeded"} 1.0' in shown


def test_a_large_copy_stops_within_a_second(tmp_path: Path) -> None:
    with server(tmp_path) as running, Client(running.target) as client:
        client.create_collection("large", CollectionConfig(embedder="none", dimension=2))
        text = os.urandom(300_000).hex()
        client.ingest("large", [Document(id=str(i), text=text, vector=[1.0, i]) for i in range(200)]).finish()
        started = client.start_backup("one")
        while (now := client.get_operation(started.name)).state == "pending" or now.progress is None:
            assert not now.done
        begin = time.monotonic()
        client.cancel_operation(started.name)
        ended = client.wait_operation(started.name)
        assert time.monotonic() - begin < 1.5
        assert (ended.state == "cancelled") == (left_of_backups(running) == [])
