"""Who gets in and how far: keys, scopes, grants, and what is refused whoever sends it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from shortlist import Client, Document
from shortlist import _errors as errors
from shortlist.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_pb2,
    document_service_pb2,
    document_service_pb2_grpc,
    operation_service_pb2,
    operation_service_pb2_grpc,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)
from shortlist_server.app import Server
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference.catalog import load_models
from shortlist_server.keys import Scope, new_key
from shortlist_server.rpc.authorization import RULES
from shortlist_server.rpc.transport import check_exposure
from shortlist_server.testing import TestServer, server
from shortlist_server.worker import Worker

A, C, D, OP, S = (
    admin_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    operation_service_pb2,
    search_service_pb2,
)

ALL_KEY, ALL = new_key("all", Scope)
GRANTED_KEY, GRANTED = new_key("granted", Scope, ["mine", "team-*"])
SCOPE_KEYS = {scope: new_key(f"only-{scope.value}", [scope]) for scope in Scope}
ENTRIES = (ALL.entry(), GRANTED.entry(), *(key.entry() for _, key in SCOPE_KEYS.values()))

DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
INVALID, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED


def query(collection: str) -> S.SearchRequest:
    return S.SearchRequest(collection=collection, query=search_pb2.Query(text="a"))


REQUESTS: dict[str, Callable[[str], Any]] = {
    "Search": query,
    "BatchSearch": lambda name: S.BatchSearchRequest(requests=[query("mine"), query(name)]),
    "Ingest": lambda name: iter([D.IngestRequest(start=D.IngestStart(collection=name))]),
    "Get": lambda name: D.GetRequest(collection=name, ids=["a"]),
    "Delete": lambda name: D.DeleteRequest(collection=name, ids=D.DocumentIds(ids=["a"])),
    "List": lambda name: D.ListRequest(collection=name),
    "Count": lambda name: D.CountRequest(collection=name),
    "ListDeadLetters": lambda name: D.ListDeadLettersRequest(collection=name),
    "RetryDeadLetters": lambda name: D.RetryDeadLettersRequest(collection=name),
    "DeleteDeadLetters": lambda name: D.DeleteDeadLettersRequest(collection=name),
    "CreateCollection": lambda name: C.CreateCollectionRequest(collection=name),
    "GetCollection": lambda name: C.GetCollectionRequest(collection=name),
    "ListCollections": lambda name: C.ListCollectionsRequest(),
    "UpdateCollection": lambda name: C.UpdateCollectionRequest(collection=name),
    "DeleteCollection": lambda name: C.DeleteCollectionRequest(collection=name),
    "GetServerInfo": lambda name: A.GetServerInfoRequest(),
    "GetRecall": lambda name: A.GetRecallRequest(collection=name),
    "Verify": lambda name: A.VerifyRequest(collection=name),
    "Backup": lambda name: A.BackupRequest(name="b", collections=[name]),
    "ListBackups": lambda name: A.ListBackupsRequest(),
    "Restore": lambda name: A.RestoreRequest(backup="b", collection=name),
    "Evaluate": lambda name: A.EvaluateRequest(collection=name),
    "StartModelUpload": lambda name: A.StartModelUploadRequest(model="m@1"),
    "UploadModelChunk": lambda name: A.UploadModelChunkRequest(model="m@1"),
    "PublishModel": lambda name: A.PublishModelRequest(model="m@1"),
    "ListModels": lambda name: A.ListModelsRequest(),
    "GetModel": lambda name: A.GetModelRequest(model="m@1"),
    "UpdateModelCard": lambda name: A.UpdateModelCardRequest(model="m@1"),
    "DeleteModel": lambda name: A.DeleteModelRequest(model="m@1"),
    "GetOperation": lambda name: OP.GetOperationRequest(name="operations/x"),
    "ListOperations": lambda name: OP.ListOperationsRequest(collection=name),
    "CancelOperation": lambda name: OP.CancelOperationRequest(name="operations/x"),
    "WaitOperation": lambda name: OP.WaitOperationRequest(name="operations/x"),
    "PauseOperation": lambda name: OP.PauseOperationRequest(name="operations/x"),
    "ResumeOperation": lambda name: OP.ResumeOperationRequest(name="operations/x"),
    "StartReindex": lambda name: C.StartReindexRequest(collection=name),
    "ListGenerations": lambda name: C.ListGenerationsRequest(collection=name),
    "CompareGenerations": lambda name: C.CompareGenerationsRequest(collection=name),
    "SwitchGeneration": lambda name: C.SwitchGenerationRequest(collection=name),
    "RollBackGeneration": lambda name: C.RollBackGenerationRequest(collection=name),
    "DropGeneration": lambda name: C.DropGenerationRequest(collection=name),
    "ServerReflectionInfo": lambda name: iter([reflection_pb2.ServerReflectionRequest(list_services="")]),
}
"""A request of every method, for a collection of that name."""

METHODS = {method.rpartition("/")[2]: method for method in RULES}
OF_NO_COLLECTION = {
    "ListCollections",
    "GetServerInfo",
    "ServerReflectionInfo",
    # Of the operation's collections; see test_operations.py.
    "GetOperation",
    "CancelOperation",
    "WaitOperation",
    "PauseOperation",
    "ResumeOperation",
}


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    folder = tmp_path_factory.mktemp("data")
    with server(data_dir=folder, api_keys=ENTRIES) as running:
        with Client(running.target, api_key=ALL_KEY) as client:
            client.create_collection("mine")
            client.create_collection("theirs")
        with grpc.insecure_channel(running.target) as channel:
            yield channel


def send(channel: grpc.Channel, name: str, collection: str, key: str | None = None) -> None:
    """Calls a method to its end."""
    for stub in (
        search_service_pb2_grpc.SearchServiceStub(channel),
        document_service_pb2_grpc.DocumentServiceStub(channel),
        collection_service_pb2_grpc.CollectionServiceStub(channel),
        admin_service_pb2_grpc.AdminServiceStub(channel),
        operation_service_pb2_grpc.OperationServiceStub(channel),
        reflection_pb2_grpc.ServerReflectionStub(channel),
    ):
        if hasattr(stub, name):
            metadata = (("authorization", f"Bearer {key}"),) if key else ()
            answer = getattr(stub, name)(REQUESTS[name](collection), timeout=10, metadata=metadata)
            if hasattr(answer, "__next__"):
                list(answer)
            return
    raise AssertionError(name)


def refused(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason


def test_the_table_below_tries_every_method() -> None:
    assert set(REQUESTS) == set(METHODS)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    "key", [None, "sl_unknown", ALL_KEY[:-1], ALL.digest.hex()], ids=["none", "unknown", "cut", "digest"]
)
def test_without_a_known_key_no_method_answers(channel: grpc.Channel, name: str, key: str | None) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, name, "mine", key)
    assert refused(caught.value) == (UNKNOWN, "UNAUTHENTICATED")


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("scope", Scope)
def test_a_key_needs_the_scope_of_the_method(channel: grpc.Channel, name: str, scope: Scope) -> None:
    if RULES[METHODS[name]].scope is scope:
        return
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, name, "mine", SCOPE_KEYS[scope][0])
    assert refused(caught.value) == (DENIED, "PERMISSION_DENIED")


@pytest.mark.parametrize("method", ["Search", "BatchSearch"])
@pytest.mark.parametrize(
    ("key", "may"),
    [(SCOPE_KEYS[Scope.READ][0], False), (GRANTED_KEY, True), (ALL_KEY, True)],
    ids=["read", "granted", "all"],
)
def test_the_texts_that_models_read_are_for_admins(channel: grpc.Channel, method: str, key: str, may: bool) -> None:
    request = REQUESTS[method]("mine")
    for search in [request] if method == "Search" else request.requests[1:]:
        search.explain_texts = True
    call = getattr(search_service_pb2_grpc.SearchServiceStub(channel), method)
    metadata = (("authorization", f"Bearer {key}"),)
    if may:
        answer = call(request, timeout=10, metadata=metadata)
        response = answer if method == "Search" else answer.results[1].response
        assert response.explanation.texts.query == "a"
        return
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10, metadata=metadata)
    assert refused(caught.value) == (DENIED, "PERMISSION_DENIED")
    assert "explain_texts" in (caught.value.details() or "")


@pytest.mark.parametrize("name", sorted(REQUESTS.keys() - OF_NO_COLLECTION))
def test_a_key_needs_a_grant_for_the_collection(channel: grpc.Channel, name: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, name, "theirs", GRANTED_KEY)
    assert refused(caught.value) == (DENIED, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "name", ["Search", "BatchSearch", "Get", "Count", "Ingest", "GetCollection", "Delete", "Verify", "ListOperations"]
)
def test_a_granted_key_may_do_what_it_is_granted(channel: grpc.Channel, name: str) -> None:
    send(channel, name, "mine", GRANTED_KEY)


def test_a_granted_key_sees_only_its_collections(channel: grpc.Channel) -> None:
    stub = collection_service_pb2_grpc.CollectionServiceStub(channel)
    for key, names in ((GRANTED_KEY, ["mine"]), (ALL_KEY, ["mine", "theirs"])):
        metadata = (("authorization", f"bearer {key}"),)
        found = stub.ListCollections(C.ListCollectionsRequest(), metadata=metadata, timeout=10)
        assert [collection.name for collection in found.collections] == names


def test_a_granted_key_counts_only_its_collections(channel: grpc.Channel) -> None:
    stub = admin_service_pb2_grpc.AdminServiceStub(channel)
    collections = collection_service_pb2_grpc.CollectionServiceStub(channel)
    for key in (GRANTED_KEY, ALL_KEY):
        metadata = (("authorization", f"Bearer {key}"),)
        listed = collections.ListCollections(C.ListCollectionsRequest(), metadata=metadata, timeout=10).collections
        info = stub.GetServerInfo(A.GetServerInfoRequest(), metadata=metadata, timeout=10)
        assert info.collection_count == len(listed)


@pytest.mark.parametrize("name", sorted(REQUESTS.keys() - OF_NO_COLLECTION))
def test_a_refusal_does_not_tell_whether_a_collection_exists(channel: grpc.Channel, name: str) -> None:
    told = []
    for collection in ("theirs", "absent"):
        with pytest.raises(grpc.RpcError) as caught:
            send(channel, name, collection, GRANTED_KEY)
        told.append((refused(caught.value), (caught.value.details() or "").replace(collection, "NAME")))
    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["Verify", "Backup"])
def test_a_granted_key_may_not_ask_for_everything(channel: grpc.Channel, name: str) -> None:
    stub = admin_service_pb2_grpc.AdminServiceStub(channel)
    request = A.VerifyRequest() if name == "Verify" else A.BackupRequest(name="b")
    with pytest.raises(grpc.RpcError) as caught:
        getattr(stub, name)(request, metadata=(("authorization", f"Bearer {GRANTED_KEY}"),), timeout=10)
    assert refused(caught.value) == (DENIED, "PERMISSION_DENIED")


def test_a_prefix_is_granted_as_a_whole_and_no_path_hides_behind_it(channel: grpc.Channel) -> None:
    send(channel, "CreateCollection", "team-a", GRANTED_KEY)
    with pytest.raises(grpc.RpcError) as caught:
        send(channel, "CreateCollection", "team-/../theirs", GRANTED_KEY)
    assert refused(caught.value) == (INVALID, "INVALID_ARGUMENT")


def test_a_stream_may_not_name_another_collection_later(channel: grpc.Channel) -> None:
    starts = [D.IngestRequest(start=D.IngestStart(collection=name)) for name in ("mine", "theirs")]
    stub = document_service_pb2_grpc.DocumentServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Ingest(iter(starts), metadata=(("authorization", f"Bearer {GRANTED_KEY}"),), timeout=10))
    assert refused(caught.value) == (DENIED, "PERMISSION_DENIED")


def test_two_keys_in_one_call_are_none(channel: grpc.Channel) -> None:
    metadata = (("authorization", f"Bearer {ALL_KEY}"), ("authorization", "Bearer other"))
    with pytest.raises(grpc.RpcError) as caught:
        document_service_pb2_grpc.DocumentServiceStub(channel).Count(
            D.CountRequest(collection="mine"), metadata=metadata, timeout=10
        )
    assert caught.value.code() is UNKNOWN


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist_server.keys.RELOAD_SECONDS", 0.0)
    old, new = new_key("old", [Scope.READ]), new_key("new", [Scope.READ])
    file = tmp_path / "keys"
    file.write_text(f"# who may search\n\n{old[1].entry()}\n")
    with server(data_dir=tmp_path / "data", api_keys_file=str(file)) as running:
        with Client(running.target, api_key=old[0]) as client:
            assert list(client.list_collections()) == []
            file.write_text(new[1].entry())
            with pytest.raises(errors.Unauthenticated):
                list(client.list_collections())
        with Client(running.target, api_key=new[0]) as client:
            assert list(client.list_collections()) == []
            file.write_text("not an entry")
            assert list(client.list_collections()) == []


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", ":1", "ipv4:127.0.0.1:1"])
def test_without_a_key_a_server_does_not_let_others_in_unless_told(listen: str) -> None:
    with pytest.raises(InvalidArgument, match="--insecure"):
        check_exposure(Config(listen=listen), has_keys=False)
    check_exposure(Config(listen=listen), has_keys=True)
    check_exposure(Config(listen=listen, insecure=True), has_keys=False)


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", ":1"])
def test_metrics_need_consent_to_an_address_that_others_reach_even_with_keys(listen: str) -> None:
    with pytest.raises(InvalidArgument, match="--metrics-insecure"):
        check_exposure(Config(metrics_listen=listen, insecure=True), has_keys=True)
    check_exposure(Config(metrics_listen=listen, metrics_insecure=True), has_keys=True)
    check_exposure(Config(metrics_listen="127.0.0.1:1"), has_keys=False)


@pytest.mark.parametrize("make", [Server, Worker])
async def test_neither_server_nor_worker_starts_with_metrics_for_all(make: Any, tmp_path: Path) -> None:
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", embedders=("hashing",), metrics_listen="0.0.0.0:0")
    running = make(config)
    with pytest.raises(InvalidArgument, match="--metrics-insecure"):
        await running.start()
    await running.stop(0)


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:0", "unix:/tmp/socket"])
def test_on_a_loopback_address_no_key_is_needed(listen: str) -> None:
    check_exposure(Config(listen=listen), has_keys=False)


def test_the_server_itself_refuses_to_start_without_a_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="--insecure"):
        TestServer(tmp_path, listen="0.0.0.0:0").start()
    assert not (tmp_path / "collections").exists()


# ------------------------------------------------------------------------------------------- what is refused to anyone


def test_a_flood_of_headers_is_refused(channel: grpc.Channel) -> None:
    metadata = (("authorization", f"Bearer {ALL_KEY}"), *((f"x-{i}", "y" * 1000) for i in range(60)))
    with pytest.raises(grpc.RpcError) as caught:
        document_service_pb2_grpc.DocumentServiceStub(channel).Count(
            D.CountRequest(collection="mine"), metadata=metadata, timeout=10
        )
    assert caught.value.code() is EXHAUSTED
    send(channel, "Count", "mine", ALL_KEY)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_an_oversized_message_is_refused_compressed_or_not(channel: grpc.Channel, compression: Any) -> None:
    document = document_pb2.Document(id="a", text="x" * (40 << 20))
    operation = D.IngestOperation(position=1, upsert=document)
    messages = [
        D.IngestRequest(start=D.IngestStart(collection="mine")),
        D.IngestRequest(batch=D.IngestBatch(operations=[operation])),
    ]
    stub = document_service_pb2_grpc.DocumentServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        metadata = (("authorization", f"Bearer {ALL_KEY}"),)
        list(stub.Ingest(iter(messages), compression=compression, metadata=metadata, timeout=30))
    # gRPC refuses what it receives, the server what that would become.
    assert caught.value.code() is (EXHAUSTED if compression is grpc.Compression.NoCompression else INVALID)


@pytest.mark.parametrize("name", ["../etc", "/etc/passwd", "..", "a/../../b", "a\\b", "%2e%2e", "mine/", "mine\n"])
def test_no_collection_name_leads_out_of_the_data_folder(channel: grpc.Channel, name: str) -> None:
    for method in ("Search", "Get", "CreateCollection", "GetCollection", "DeleteCollection", "Ingest", "Restore"):
        with pytest.raises(grpc.RpcError) as caught:
            send(channel, method, name, ALL_KEY)
        assert refused(caught.value) == (INVALID, "INVALID_ARGUMENT")


def test_weights_that_are_a_pickle_are_not_loaded(tmp_path: Path) -> None:
    trap = tmp_path / "model"
    trap.mkdir()
    (trap / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    (trap / "tokenizer.json").write_text("{}")
    opened = tmp_path / "opened"
    # A pickle that would make a file when loaded.
    (trap / "pytorch_model.bin").write_bytes(f"cbuiltins\nopen\n(V{opened}\nVw\ntR.".encode())
    with pytest.raises(ModelNotFound):
        load_models(Config(data_dir=tmp_path, embedders=(f"mine={trap}",)))
    assert not opened.exists()


def test_reflection_can_be_switched_off(tmp_path: Path) -> None:
    with server(data_dir=tmp_path, reflection=False) as running, grpc.insecure_channel(running.target) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            send(channel, "ServerReflectionInfo", "")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_no_text_query_or_key_is_in_the_log_at_any_level(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        server(data_dir=tmp_path, api_keys=ENTRIES, slow_search_seconds=1e-9) as running,
    ):
        with Client(running.target, api_key=ALL_KEY) as client:
            client.create_collection("docs")
            client.ingest("docs", [Document(id="private-id", title="private-title", text="private-text")]).finish()
            assert client.search("docs", "private-query").hits
            with pytest.raises(errors.ShortlistError):
                client.search("docs", "private-query", limit=-1)
        with Client(running.target, api_key="private-key") as client, pytest.raises(errors.Unauthenticated):
            client.count("docs")
    ours = [record for record in caplog.records if record.name.startswith("shortlist")]
    text = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in ours)
    assert "slow search" in text
    assert "private" not in text
    assert ALL_KEY not in text
