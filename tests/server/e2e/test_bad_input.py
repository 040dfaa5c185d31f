"""A table of bad inputs: each answers with its status, reason and field, loses nothing, and leaves no traceback."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shortlist import Client, CollectionConfig, Document, Include, InternalError
from shortlist.v1 import (
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_pb2,
    document_service_pb2,
    document_service_pb2_grpc,
    error_pb2,
    filter_pb2,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)
from shortlist_server.rpc.convert import pages
from shortlist_server.testing import server

C = collection_service_pb2
D = document_service_pb2
S = search_service_pb2
DIMENSION = 8


@pytest.fixture(scope="module")
def channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as channel:
        collections = collection_service_pb2_grpc.CollectionServiceStub(channel)
        collections.CreateCollection(C.CreateCollectionRequest(collection="texts"), timeout=10)
        vectors = collection_pb2.CollectionConfig(embedder="none", dimension=DIMENSION)
        collections.CreateCollection(C.CreateCollectionRequest(collection="vectors", config=vectors), timeout=10)
        yield channel


def search(**fields: Any) -> S.SearchRequest:
    fields.setdefault("collection", "texts")
    fields.setdefault("query", search_pb2.Query(text="a question"))
    return S.SearchRequest(**fields)


def vector(*values: float) -> search_pb2.Query:
    return search_pb2.Query(vector=values)


def create(name: str = "new", **config: Any) -> C.CreateCollectionRequest:
    return C.CreateCollectionRequest(collection=name, config=collection_pb2.CollectionConfig(**config))


def stages(*each: dict[str, Any], **one: Any) -> search_pb2.Rerank:
    return search_pb2.Rerank(stages=[search_pb2.RerankStage(**stage) for stage in each], **one)


TEXTS = D.ListRequest(collection="texts")
FOREIGN, TOO_FAR = pages.next_token(D.ListRequest(collection="vectors"), 1), pages.next_token(TEXTS, 10**30)
BAD_FILTER = filter_pb2.Filter(all_of=filter_pb2.AllOf())
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
EXISTS, PRECONDITION = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION

CASES: list[tuple[str, Any, grpc.StatusCode, str, str]] = [
    ("Search", search(query=search_pb2.Query()), INVALID, "INVALID_ARGUMENT", "query"),
    ("Search", search(query=search_pb2.Query(text=" \n ")), INVALID, "INVALID_ARGUMENT", "query"),
    ("Search", search(query=search_pb2.Query(text="x" * 40_000)), INVALID, "INVALID_ARGUMENT", "query.text"),
    ("Search", search(limit=1001), INVALID, "INVALID_ARGUMENT", "limit"),
    ("Search", search(limit=-1), INVALID, "INVALID_ARGUMENT", "limit"),
    ("Search", search(limit=10**9), INVALID, "INVALID_ARGUMENT", "limit"),
    ("Search", search(offset=-1), INVALID, "INVALID_ARGUMENT", "offset"),
    ("Search", search(limit=600, offset=600), INVALID, "INVALID_ARGUMENT", "limit + offset"),
    ("Search", search(query=vector(1.0, 2.0)), INVALID, "INVALID_VECTOR", "query.vector"),
    ("Search", search(query=vector(*[0.0] * 8), collection="vectors"), INVALID, "INVALID_VECTOR", "query.vector"),
    ("Search", search(query=vector(*[math.nan] * 8), collection="vectors"), INVALID, "INVALID_VECTOR", "query.vector"),
    ("Search", search(query=vector(*[math.inf] * 8), collection="vectors"), INVALID, "INVALID_VECTOR", "query.vector"),
    ("Search", search(collection=""), INVALID, "INVALID_ARGUMENT", "collection"),
    ("Search", search(collection="../etc"), INVALID, "INVALID_ARGUMENT", "collection"),
    ("Search", search(collection="absent"), NOT_FOUND, "COLLECTION_NOT_FOUND", ""),
    ("Search", search(filter=BAD_FILTER), INVALID, "INVALID_FILTER", "filter.all_of.filters"),
    ("Search", search(mode=99), INVALID, "INVALID_ARGUMENT", "mode"),
    ("Search", search(candidates=search_pb2.Candidates(dense=0)), INVALID, "INVALID_ARGUMENT", "candidates.dense"),
    ("Search", search(fusion=search_pb2.Fusion(dense_weight=1.5)), INVALID, "INVALID_ARGUMENT", "fusion.dense_weight"),
    (
        "Search",
        search(fusion=search_pb2.Fusion(dense_weight=math.nan)),
        INVALID,
        "INVALID_ARGUMENT",
        "fusion.dense_weight",
    ),
    ("Search", search(rerank=search_pb2.Rerank(depth=0)), INVALID, "INVALID_ARGUMENT", "rerank.depth"),
    (
        "Search",
        search(rerank=search_pb2.Rerank(deadline_share=0)),
        INVALID,
        "INVALID_ARGUMENT",
        "rerank.deadline_share",
    ),
    ("Search", search(rerank=search_pb2.Rerank(model="absent")), NOT_FOUND, "MODEL_NOT_FOUND", ""),
    (
        "Search",
        search(rerank=stages({"depth": 3}, {"weight": 1.5})),
        INVALID,
        "INVALID_ARGUMENT",
        "rerank.stages[1].weight",
    ),
    (
        "Search",
        search(rerank=stages({"deadline_share": 0})),
        INVALID,
        "INVALID_ARGUMENT",
        "rerank.stages[0].deadline_share",
    ),
    ("Search", search(rerank=stages({}, {"model": "none"})), INVALID, "INVALID_ARGUMENT", "rerank.stages[1].model"),
    ("Search", search(rerank=stages({}, {"model": "absent"})), NOT_FOUND, "MODEL_NOT_FOUND", ""),
    ("Search", search(rerank=stages({}, depth=3)), INVALID, "INVALID_ARGUMENT", "rerank.stages"),
    ("Search", search(rerank=stages(*[{}] * 5)), INVALID, "INVALID_ARGUMENT", "rerank.stages"),
    (
        "Search",
        search(collection="vectors", query=search_pb2.Query(text="x"), rerank=stages({})),
        INVALID,
        "INVALID_ARGUMENT",
        "rerank.stages[0].model",
    ),
    ("Search", search(min_score=2), INVALID, "INVALID_ARGUMENT", "min_score"),
    ("Search", search(collection="vectors", mode=1), PRECONDITION, "UNSUPPORTED_BY_COLLECTION", "query.vector"),
    (
        "Search",
        search(collection="vectors", query=vector(*[1.0] * 8), rerank=search_pb2.Rerank(enabled=True)),
        INVALID,
        "INVALID_ARGUMENT",
        "rerank.enabled",
    ),
    ("BatchSearch", S.BatchSearchRequest(), INVALID, "INVALID_ARGUMENT", "requests"),
    ("Get", D.GetRequest(collection="texts"), INVALID, "INVALID_ARGUMENT", "ids"),
    ("Get", D.GetRequest(collection="texts", ids=[""]), INVALID, "INVALID_ARGUMENT", "ids[0]"),
    ("Get", D.GetRequest(collection="texts", ids=["a\x00b"]), INVALID, "INVALID_ARGUMENT", "ids[0]"),
    ("Get", D.GetRequest(collection="texts", ids=["x" * 513]), INVALID, "INVALID_ARGUMENT", "ids[0]"),
    ("Delete", D.DeleteRequest(collection="texts"), INVALID, "INVALID_ARGUMENT", "selection"),
    (
        "Delete",
        D.DeleteRequest(collection="texts", filter=BAD_FILTER),
        INVALID,
        "INVALID_FILTER",
        "filter.all_of.filters",
    ),
    ("List", D.ListRequest(collection="texts", page_size=-1), INVALID, "INVALID_ARGUMENT", "page_size"),
    ("List", D.ListRequest(collection="texts", page_token="garbage"), INVALID, "INVALID_ARGUMENT", "page_token"),
    ("List", D.ListRequest(collection="texts", page_token=TOO_FAR), INVALID, "INVALID_ARGUMENT", "page_token"),
    ("List", D.ListRequest(collection="texts", page_token=FOREIGN), INVALID, "INVALID_ARGUMENT", "page_token"),
    (
        "ListDeadLetters",
        D.ListDeadLettersRequest(collection="texts", page_token="9" * 30),
        INVALID,
        "INVALID_ARGUMENT",
        "page_token",
    ),
    ("Count", D.CountRequest(collection="absent"), NOT_FOUND, "COLLECTION_NOT_FOUND", ""),
    ("CreateCollection", create("Bad Name"), INVALID, "INVALID_ARGUMENT", "collection"),
    ("CreateCollection", create("x" * 65), INVALID, "INVALID_ARGUMENT", "collection"),
    ("CreateCollection", create("texts"), EXISTS, "COLLECTION_EXISTS", ""),
    ("CreateCollection", create(embedder="absent"), NOT_FOUND, "MODEL_NOT_FOUND", ""),
    ("CreateCollection", create(embedder="none"), INVALID, "INVALID_ARGUMENT", "config.dimension"),
    ("CreateCollection", create(dimension=-3), INVALID, "INVALID_ARGUMENT", "config.dimension"),
    ("CreateCollection", create(dimension=10**6), INVALID, "INVALID_ARGUMENT", "config.dimension"),
    (
        "CreateCollection",
        create(embedder="none", dimension=8, reranker="late-interaction"),
        INVALID,
        "INVALID_ARGUMENT",
        "config.reranker",
    ),
    (
        "CreateCollection",
        create(chunking=collection_pb2.Chunking(max_tokens=3)),
        INVALID,
        "INVALID_ARGUMENT",
        "config.chunking.max_tokens",
    ),
    (
        "CreateCollection",
        create(chunking=collection_pb2.Chunking(max_tokens=32, overlap_tokens=30)),
        INVALID,
        "INVALID_ARGUMENT",
        "config.chunking.overlap_tokens",
    ),
    ("CreateCollection", create(filterable_fields=["a..b"]), INVALID, "INVALID_FILTER", "config.filterable_fields[0]"),
    ("GetCollection", C.GetCollectionRequest(collection="absent"), NOT_FOUND, "COLLECTION_NOT_FOUND", ""),
    ("DeleteCollection", C.DeleteCollectionRequest(collection="absent"), NOT_FOUND, "COLLECTION_NOT_FOUND", ""),
    ("ListCollections", C.ListCollectionsRequest(page_size=-1), INVALID, "INVALID_ARGUMENT", "page_size"),
    ("ListCollections", C.ListCollectionsRequest(page_token="texts"), INVALID, "INVALID_ARGUMENT", "page_token"),
    ("UpdateCollection", C.UpdateCollectionRequest(collection="absent"), NOT_FOUND, "COLLECTION_NOT_FOUND", ""),
]


def method(channel: grpc.Channel, name: str) -> Callable[..., Any]:
    for stub in (
        search_service_pb2_grpc.SearchServiceStub(channel),
        document_service_pb2_grpc.DocumentServiceStub(channel),
        collection_service_pb2_grpc.CollectionServiceStub(channel),
    ):
        if hasattr(stub, name):
            found: Callable[..., Any] = getattr(stub, name)
            return found
    raise AssertionError(name)


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and field of a refused call."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    field = ""
    if len(status.details) > 1 and status.details[1].Unpack(bad):
        field = bad.field_violations[0].field
    return error.code(), info.reason, field


@pytest.mark.parametrize(("name", "request_", "code", "reason", "field"), CASES)
def test_bad_input_is_refused_with_status_reason_and_field(
    channel: grpc.Channel,
    caplog: pytest.LogCaptureFixture,
    name: str,
    request_: Any,
    code: grpc.StatusCode,
    reason: str,
    field: str,
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(grpc.RpcError) as caught:
        method(channel, name)(request_, timeout=10)
    assert refusal(caught.value) == (code, reason, field)
    assert caplog.records == []


def ingest(channel: grpc.Channel, *messages: D.IngestRequest) -> list[D.IngestResponse]:
    return list(document_service_pb2_grpc.DocumentServiceStub(channel).Ingest(iter(messages), timeout=20))


def start(collection: str = "texts", **fields: Any) -> D.IngestRequest:
    return D.IngestRequest(start=D.IngestStart(collection=collection, **fields))


def batch(*operations: D.IngestOperation) -> D.IngestRequest:
    return D.IngestRequest(batch=D.IngestBatch(operations=operations))


def put(position: int, **fields: Any) -> D.IngestOperation:
    metadata = fields.pop("metadata", {})
    document = document_pb2.Document(**fields)
    document.metadata.update(metadata)
    return D.IngestOperation(position=position, upsert=document)


STREAMS: list[tuple[list[D.IngestRequest], grpc.StatusCode, str, str]] = [
    ([], INVALID, "INVALID_ARGUMENT", "start"),
    ([batch(put(1, id="a", text="b"))], INVALID, "INVALID_ARGUMENT", "start"),
    ([start("absent")], NOT_FOUND, "COLLECTION_NOT_FOUND", ""),
    ([start("..")], INVALID, "INVALID_ARGUMENT", "start.collection"),
    ([start(stream="x" * 129)], INVALID, "INVALID_ARGUMENT", "start.stream"),
    ([start(run_id="x" * 65)], INVALID, "INVALID_ARGUMENT", "start.run_id"),
    ([start(), start()], INVALID, "INVALID_ARGUMENT", "batch"),
    ([start(), batch()], INVALID, "INVALID_ARGUMENT", "batch.operations"),
    ([start(), batch(put(0, id="a", text="b"))], INVALID, "INVALID_ARGUMENT", "position"),
    ([start(), batch(put(2, id="a", text="b"), put(1, id="b", text="b"))], INVALID, "INVALID_ARGUMENT", "position"),
]


@pytest.mark.parametrize(("messages", "code", "reason", "field"), STREAMS)
def test_a_malformed_stream_is_refused(
    channel: grpc.Channel, messages: list[D.IngestRequest], code: grpc.StatusCode, reason: str, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, *messages)
    assert refusal(caught.value) == (code, reason, field)


def deep(levels: int) -> dict[str, Any]:
    return {"k": deep(levels - 1)} if levels else {}


OPERATIONS: list[tuple[str, D.IngestOperation, str, str]] = [
    ("texts", put(1, id="", text="b"), "INVALID_ARGUMENT", "document.id"),
    ("texts", put(1, id="a\tb", text="b"), "INVALID_ARGUMENT", "document.id"),
    ("texts", put(1, id="ü" * 257, text="b"), "INVALID_ARGUMENT", "document.id"),
    ("texts", put(1, id="a"), "INVALID_ARGUMENT", "document.text"),
    ("texts", put(1, id="a", text=" \n\t"), "INVALID_ARGUMENT", "document.text"),
    ("texts", put(1, id="a", text="x" * (1 << 20) + "x"), "DOCUMENT_TOO_LARGE", "document.text"),
    ("texts", put(1, id="a", text="b", metadata={"k": "x" * 70_000}), "DOCUMENT_TOO_LARGE", "document.metadata"),
    (
        "texts",
        put(1, id="a", text="b", metadata={str(i): i for i in range(1000)}),
        "DOCUMENT_TOO_LARGE",
        "document.metadata",
    ),
    ("texts", put(1, id="a", text="b", metadata=deep(20)), "DOCUMENT_TOO_LARGE", "document.metadata"),
    ("texts", put(1, id="a", text="b", metadata={"k": math.nan}), "INVALID_ARGUMENT", "document.metadata.k"),
    ("texts", put(1, id="a", text="b", metadata={"k": {"": 1}}), "INVALID_ARGUMENT", "document.metadata.k"),
    ("texts", put(1, id="a", vector=[1.0]), "INVALID_VECTOR", "document.vector"),
    ("vectors", put(1, id="a", vector=[math.nan] * 8), "INVALID_VECTOR", "document.vector"),
    ("vectors", put(1, id="a", vector=[0.0] * 8), "INVALID_VECTOR", "document.vector"),
    ("vectors", put(1, id="a", text="b"), "INVALID_ARGUMENT", "document.vector"),
    ("vectors", put(1, id="a", vector_f32=b"12345"), "INVALID_VECTOR", "document.vector_f32"),
    ("vectors", put(1, id="a", vector_f32=b"1234", vector=[1.0]), "INVALID_VECTOR", "document.vector_f32"),
    ("texts", D.IngestOperation(position=1), "INVALID_ARGUMENT", "change"),
    ("texts", D.IngestOperation(position=1, delete_id="\n"), "INVALID_ARGUMENT", "delete_id"),
]


@pytest.mark.parametrize(("collection", "bad", "reason", "field"), OPERATIONS)
def test_one_bad_document_fails_alone(
    channel: grpc.Channel, collection: str, bad: D.IngestOperation, reason: str, field: str
) -> None:
    good = {"vector": [1.0] * DIMENSION} if collection == "vectors" else {"text": "a good neighbour"}
    responses = ingest(channel, start(collection), batch(bad, put(2, id="good", **good)))
    acks = [ack for response in responses for ack in response.acks.acks]
    assert [ack.position for ack in acks] == [1, 2]
    assert acks[0].status == D.ACK_STATUS_FAILED
    assert error_pb2.ErrorReason.Name(acks[0].error.reason) == f"ERROR_REASON_{reason}"
    assert acks[0].error.field == field
    assert acks[1].status in (D.ACK_STATUS_DURABLE, D.ACK_STATUS_UNCHANGED)


def test_one_bad_search_of_a_batch_fails_alone(channel: grpc.Channel) -> None:
    ingest(channel, start(), batch(put(1, id="one", text="a question about owls")))
    answer = search_service_pb2_grpc.SearchServiceStub(channel).BatchSearch(
        S.BatchSearchRequest(requests=[search(), search(limit=-1), search(collection="absent")]), timeout=10
    )
    assert [result.WhichOneof("result") for result in answer.results] == ["response", "error", "error"]
    assert answer.results[1].error.field == "limit"
    assert answer.results[2].error.reason == error_pb2.ERROR_REASON_COLLECTION_NOT_FOUND


def test_a_message_over_the_limit_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        ingest(channel, start(), batch(put(1, id="a", text="x" * (33 << 20))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_fault_that_nobody_foresaw_leaves_with_an_id_and_goes_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with server(tmp_path) as running, Client(running.target) as client:
        client.create_collection("a", CollectionConfig(embedder="none", dimension=1))
        client.ingest("a", [Document(id="x", vector=[1.0])]).finish()
        database = sqlite3.connect(tmp_path / "collections" / "a" / "collection.db")
        database.execute("DROP TABLE vectors")
        database.close()
        with pytest.raises(InternalError) as caught:
            client.get("a", ["x"], include=Include(vectors=True))
        with pytest.raises(InternalError):
            client.ingest("a", [Document(id="x", vector=[0.5])]).finish()
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert caught.value.metadata["request_id"] in caught.value.message
    assert "no such table: vectors" in caplog.text
