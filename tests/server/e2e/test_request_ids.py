"""Calls with a request id to a real server: done once, answered alike, also when the connection breaks."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from shortlist import Client, Document, IngestFailed, InvalidArgument, RequestIdReused
from shortlist._status import from_rpc_error
from shortlist.v1 import admin_service_pb2 as admin
from shortlist.v1 import admin_service_pb2_grpc as admin_grpc
from shortlist.v1 import collection_service_pb2 as collections
from shortlist.v1 import collection_service_pb2_grpc as collections_grpc
from shortlist.v1 import document_service_pb2 as documents
from shortlist.v1 import document_service_pb2_grpc as documents_grpc
from shortlist_server.testing import TestServer

from .conftest import held


@pytest.fixture
def channel(running: TestServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.target) as channel:
        yield channel


def test_a_repeated_start_is_the_same_operation(running: TestServer, channel: grpc.Channel, client: Client) -> None:
    stub = admin_grpc.AdminServiceStub(channel)
    request = admin.BackupRequest(name="one", request_id=str(uuid.uuid4()))
    first = stub.Backup(request, timeout=10).operation
    client.wait_operation(first.name)
    # Without the id, the name would be taken.
    assert stub.Backup(request, timeout=10).operation == first
    assert len(list(client.list_operations())) == 1
    with pytest.raises(grpc.RpcError) as caught:
        stub.Backup(admin.BackupRequest(name="two", request_id=request.request_id), timeout=10)
    assert isinstance(from_rpc_error(caught.value), RequestIdReused)
    # Nor may another method use it.
    with pytest.raises(grpc.RpcError) as caught:
        stub.Verify(admin.VerifyRequest(request_id=request.request_id), timeout=10)
    assert isinstance(from_rpc_error(caught.value), RequestIdReused)


def test_every_call_that_takes_an_id_has_the_same_answer_again(channel: grpc.Channel, client: Client) -> None:
    collection, document = collections_grpc.CollectionServiceStub(channel), documents_grpc.DocumentServiceStub(channel)
    with pytest.raises(IngestFailed):
        client.ingest("notes", [Document(id="bad", vector=[0.0, 0.0])]).finish()
    etag = client.get_collection("notes").etag
    update = collections.UpdateCollectionRequest(collection="notes", etag=etag, request_id="update")
    update.search_defaults.candidates.ef = 99
    calls: list[tuple[Callable[..., Any], Any]] = [
        (collection.CreateCollection, collections.CreateCollectionRequest(collection="new", request_id="create")),
        (collection.DeleteCollection, collections.DeleteCollectionRequest(collection="new", request_id="drop")),
        (collection.UpdateCollection, update),
        (
            document.Delete,
            documents.DeleteRequest(
                collection="notes", ids=documents.DocumentIds(ids=["n0", "absent"]), request_id="delete"
            ),
        ),
        (
            document.DeleteDeadLetters,
            documents.DeleteDeadLettersRequest(collection="notes", numbers=[1], request_id="forget"),
        ),
    ]
    for call, request in calls:
        first = call(request, timeout=10)
        assert call(request, timeout=10) == first
    assert document.Delete(calls[3][1], timeout=10).deleted_count == 1
    calls[3][1].request_id = ""
    assert document.Delete(calls[3][1], timeout=10).deleted_count == 0


def test_duplicates_at_the_same_time_make_one_collection(channel: grpc.Channel) -> None:
    stub = collections_grpc.CollectionServiceStub(channel)
    request = collections.CreateCollectionRequest(collection="new", request_id="x")
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda _: stub.CreateCollection(request, timeout=10), range(16)))
    assert all(answer == answers[0] for answer in answers)


def test_a_call_whose_connection_breaks_is_done_once(running: TestServer, client: Client) -> None:
    store, request_id = running._server._store, str(uuid.uuid4())
    request = collections.CreateCollectionRequest(collection="new", request_id=request_id)
    with held(running, "create:made") as gate:
        with grpc.insecure_channel(running.target) as broken:
            call = collections_grpc.CollectionServiceStub(broken).CreateCollection.future(request, timeout=30)
            assert gate.reached.wait(30)
            call.cancel()
        with grpc.insecure_channel(running.target) as channel:
            again = collections_grpc.CollectionServiceStub(channel).CreateCollection.future(request, timeout=30)
            time.sleep(0.1)
            assert not again.done()
            gate.opened.set()
            assert again.result().collection.name == "new"
    assert "new" in store.names()


def test_calls_that_are_over_before_they_are_done_do_the_server_no_harm(running: TestServer, client: Client) -> None:
    with grpc.insecure_channel(running.target) as channel:
        stub = admin_grpc.AdminServiceStub(channel)
        for _ in range(20):
            with contextlib.suppress(grpc.RpcError):
                stub.Verify(admin.VerifyRequest(request_id=str(uuid.uuid4())), timeout=0.001)
    for one in client.list_operations():
        assert client.wait_operation(one.name).state == "succeeded"


@pytest.mark.parametrize("request_id", ["x" * 65, "a\nb", "ä"])
def test_an_id_that_is_none_is_refused(channel: grpc.Channel, request_id: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        admin_grpc.AdminServiceStub(channel).Verify(admin.VerifyRequest(request_id=request_id), timeout=10)
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgument) and error.field == "request_id"


def test_an_error_is_not_repeated_when_a_repetition_can_do_better(channel: grpc.Channel, client: Client) -> None:
    stub = admin_grpc.AdminServiceStub(channel)
    request = admin.VerifyRequest(collection="later", request_id="x")
    with pytest.raises(grpc.RpcError):
        stub.Verify(request, timeout=10)
    client.create_collection("later")
    assert client.wait_operation(stub.Verify(request, timeout=10).operation.name).state == "succeeded"
