"""What a stream cannot take is remembered, shown, answered again, and can be tried again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from shortlist import Client, Document, DocumentTooLarge
from shortlist.v1 import collection_pb2, collection_service_pb2, collection_service_pb2_grpc, document_pb2, error_pb2
from shortlist.v1 import document_service_pb2 as pb
from shortlist.v1 import document_service_pb2_grpc as pb_grpc
from shortlist_server.testing import server


@pytest.fixture
def documents(target: str, request: pytest.FixtureRequest) -> Iterator[tuple[pb_grpc.DocumentServiceStub, str]]:
    name = f"q{abs(hash(request.node.name)) % 10**12}"
    with grpc.insecure_channel(target) as channel:
        collections = collection_service_pb2_grpc.CollectionServiceStub(channel)
        config = collection_pb2.CollectionConfig(embedder="none", dimension=2)
        collections.CreateCollection(
            collection_service_pb2.CreateCollectionRequest(collection=name, config=config), timeout=10
        )
        yield pb_grpc.DocumentServiceStub(channel), name


def put(position: int, id: str, *vector: float) -> pb.IngestOperation:
    return pb.IngestOperation(position=position, upsert=document_pb2.Document(id=id, text="some text", vector=vector))


def ingest(
    stub: pb_grpc.DocumentServiceStub, collection: str, *operations: pb.IngestOperation, stream: str = "s"
) -> list[pb.IngestAck]:
    messages = [
        pb.IngestRequest(start=pb.IngestStart(collection=collection, stream=stream)),
        pb.IngestRequest(batch=pb.IngestBatch(operations=operations)),
    ]
    return [ack for response in stub.Ingest(iter(messages), timeout=20) for ack in response.acks.acks]


def dead_letters(stub: pb_grpc.DocumentServiceStub, collection: str) -> list[pb.DeadLetter]:
    request = pb.ListDeadLettersRequest(collection=collection, include_document=True)
    return list(stub.ListDeadLetters(request, timeout=10).dead_letters)


def test_a_failure_is_listed_with_its_reason_and_its_document(
    documents: tuple[pb_grpc.DocumentServiceStub, str],
) -> None:
    stub, name = documents
    ingest(stub, name, put(1, "good", 1, 0), put(2, "bad", 1, 2, 3))
    (kept,) = dead_letters(stub, name)
    assert (kept.id, kept.stream, kept.position, kept.retriable) == ("bad", "s", 2, True)
    assert kept.error.reason == error_pb2.ERROR_REASON_INVALID_VECTOR
    assert kept.error.field == "document.vector"
    assert list(kept.document.vector) == [1, 2, 3]
    assert kept.time.seconds > 0


def test_a_replayed_failure_is_answered_as_failed_again(documents: tuple[pb_grpc.DocumentServiceStub, str]) -> None:
    stub, name = documents
    operations = [put(1, "good", 1, 0), put(2, "bad", 1, 2, 3), put(3, "fine", 0, 1)]
    first = ingest(stub, name, *operations)
    again = ingest(stub, name, *operations)
    assert [ack.status for ack in first] == [pb.ACK_STATUS_DURABLE, pb.ACK_STATUS_FAILED, pb.ACK_STATUS_DURABLE]
    assert [ack.status for ack in again] == [pb.ACK_STATUS_REPLAYED, pb.ACK_STATUS_FAILED, pb.ACK_STATUS_REPLAYED]
    assert again[1].error.reason == first[1].error.reason
    assert len(dead_letters(stub, name)) == 1


def test_a_later_success_removes_the_dead_letter(documents: tuple[pb_grpc.DocumentServiceStub, str]) -> None:
    stub, name = documents
    ingest(stub, name, put(1, "bad", 1, 2, 3), put(2, "worse", 1))
    ingest(stub, name, put(3, "bad", 1, 2))
    assert [kept.id for kept in dead_letters(stub, name)] == ["worse"]


def test_the_newest_failure_of_an_id_takes_the_place_of_the_last(
    documents: tuple[pb_grpc.DocumentServiceStub, str],
) -> None:
    stub, name = documents
    ingest(stub, name, put(1, "bad", 1, 2, 3))
    ingest(stub, name, put(2, "bad", 0, 0))
    assert [kept.position for kept in dead_letters(stub, name)] == [2]


def test_failures_of_streams_without_a_name_do_not_replace_each_other(
    documents: tuple[pb_grpc.DocumentServiceStub, str],
) -> None:
    stub, name = documents
    ingest(stub, name, put(1, "bad", 1, 2, 3), stream="")
    ingest(stub, name, put(1, "worse", 1), stream="")
    assert [kept.id for kept in dead_letters(stub, name)] == ["bad", "worse"]


def test_a_retry_that_fails_again_stays_and_one_can_be_forgotten(
    documents: tuple[pb_grpc.DocumentServiceStub, str],
) -> None:
    stub, name = documents
    ingest(stub, name, put(1, "bad", 1, 2, 3), put(2, "worse", 1))
    numbers = [kept.number for kept in dead_letters(stub, name)]
    acks = stub.RetryDeadLetters(pb.RetryDeadLettersRequest(collection=name, numbers=numbers), timeout=10).acks
    assert [(ack.position, ack.status) for ack in acks] == [(n, pb.ACK_STATUS_FAILED) for n in numbers]
    left = dead_letters(stub, name)
    assert sorted(kept.id for kept in left) == ["bad", "worse"]
    request = pb.DeleteDeadLettersRequest(collection=name, numbers=[left[0].number, 10**9])
    assert stub.DeleteDeadLetters(request, timeout=10).deleted_count == 1
    assert len(dead_letters(stub, name)) == 1


def test_a_dry_run_leaves_nothing_behind(documents: tuple[pb_grpc.DocumentServiceStub, str]) -> None:
    stub, name = documents
    messages = [
        pb.IngestRequest(start=pb.IngestStart(collection=name, dry_run=True)),
        pb.IngestRequest(batch=pb.IngestBatch(operations=[put(1, "bad", 1, 2, 3)])),
    ]
    acks = [ack for response in stub.Ingest(iter(messages), timeout=20) for ack in response.acks.acks]
    assert acks[0].status == pb.ACK_STATUS_FAILED
    assert dead_letters(stub, name) == []


def test_a_retry_after_the_limit_was_raised_succeeds_and_removes_the_dead_letter(tmp_path: Path) -> None:
    message = document_pb2.Document(id="long", text="word " * 50)
    with server(data_dir=tmp_path, max_document_bytes=100) as small, Client(small.target) as client:
        client.create_collection("texts")
        with grpc.insecure_channel(small.target) as channel:
            acks = ingest(pb_grpc.DocumentServiceStub(channel), "texts", pb.IngestOperation(position=1, upsert=message))
    assert acks[0].error.reason == error_pb2.ERROR_REASON_DOCUMENT_TOO_LARGE
    with server(data_dir=tmp_path) as large, grpc.insecure_channel(large.target) as channel:
        stub = pb_grpc.DocumentServiceStub(channel)
        (kept,) = dead_letters(stub, "texts")
        request = pb.RetryDeadLettersRequest(collection="texts", numbers=[kept.number])
        acks = list(stub.RetryDeadLetters(request, timeout=10).acks)
        assert [(ack.position, ack.status) for ack in acks] == [(kept.number, pb.ACK_STATUS_DURABLE)]
        assert dead_letters(stub, "texts") == []
        assert stub.Count(pb.CountRequest(collection="texts"), timeout=5).count == 1


def test_a_document_of_too_many_tokens_is_refused_alone(tmp_path: Path) -> None:
    with server(data_dir=tmp_path, max_document_tokens=40) as small, Client(small.target) as client:
        client.create_collection("texts")
        run = client.ingest("texts", [Document(id="long", text="word " * 60), Document(id="short", text="a word")])
        acks = list(run)
    assert [ack.ok for ack in acks] == [False, True]
    assert isinstance(acks[0].error, DocumentTooLarge)
