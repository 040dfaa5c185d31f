"""No call, however much it sends or asks for, makes the server's event loop take a long step.

The loop also answers the health checks. A step is measured by the time that the loop's thread computes, which other
load on the machine does not change much.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf import struct_pb2

from shortlist import Client, CollectionConfig, Document
from shortlist.v1 import document_pb2, filter_pb2, search_pb2
from shortlist.v1 import document_service_pb2 as document_pb
from shortlist.v1 import search_service_pb2 as search_pb
from shortlist.v1 import search_service_pb2_grpc as search_grpc
from shortlist.v1.document_service_pb2_grpc import DocumentServiceStub
from shortlist_server.testing import TestServer, server

LONGEST_SECONDS = 0.05

LARGE = [Document(id=f"large-{i}", text="x" * 900_000, vector=[1.0]) for i in range(24)]
NUMBERS = {"numbers": [i % 10 for i in range(20_000)]}
"""Metadata of forty kilobytes, with as many values as may be."""


class Steps:
    """The steps of the test server's event loop while the block runs."""

    longest_seconds = 0.0
    longest = ""


@contextmanager
def watched_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps, run = Steps(), asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        if threading.current_thread().name != "shortlist-test-server":
            run(handle)
            return
        what, begin = repr(handle), time.thread_time()
        run(handle)
        seconds = time.thread_time() - begin
        if seconds > steps.longest_seconds:
            steps.longest_seconds, steps.longest = seconds, what

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.Handle, "_run", measured)
        yield steps


@pytest.fixture(scope="module")
def running() -> Iterator[TestServer]:
    with server() as running, Client(running.target) as client:
        client.create_collection("docs", CollectionConfig(embedder="none", dimension=1, filterable_fields=("year",)))
        client.ingest("docs", LARGE).finish()
        client.create_collection("numbers", CollectionConfig(embedder="none", dimension=1))
        documents = [Document(id=str(i), text="owl", vector=[1.0], metadata=NUMBERS) for i in range(40)]
        client.ingest("numbers", documents).finish()
        yield running


def page(channel: grpc.Channel) -> None:
    answer = DocumentServiceStub(channel).List(document_pb.ListRequest(collection="docs"))
    assert len(answer.documents) > 3


def documents(channel: grpc.Channel) -> None:
    ids = [document.id for document in LARGE]
    answer = DocumentServiceStub(channel).Get(document_pb.GetRequest(collection="docs", ids=[*ids, "missing"]))
    assert [one.document.id for one in answer.documents] == ids
    assert answer.missing_ids == ["missing"]


def hits(channel: grpc.Channel) -> None:
    request = search_pb.SearchRequest(collection="docs", query=search_pb2.Query(vector=[1.0]), limit=24)
    assert len(search_grpc.SearchServiceStub(channel).Search(request).hits) == 24


def batch(channel: grpc.Channel) -> None:
    search = search_pb.SearchRequest(collection="docs", query=search_pb2.Query(vector=[1.0]), limit=8)
    answer = search_grpc.SearchServiceStub(channel).BatchSearch(search_pb.BatchSearchRequest(requests=[search] * 3))
    assert [len(result.response.hits) for result in answer.results] == [8, 8, 8]


def metadata(channel: grpc.Channel) -> None:
    request = search_pb.SearchRequest(collection="numbers", query=search_pb2.Query(vector=[1.0]), limit=40)
    answer = search_grpc.SearchServiceStub(channel).Search(request)
    assert len(answer.hits) == 40
    assert len(answer.hits[0].document.metadata.fields["numbers"].list_value.values) == 20_000


def many_values() -> filter_pb2.Filter:
    values = [filter_pb2.Scalar(number_value=i) for i in range(1000)]
    one = filter_pb2.Filter(one_of=filter_pb2.OneOf(field="year", values=values))
    return filter_pb2.Filter(any_of=filter_pb2.AnyOf(filters=[one] * 200))


def filtered_search(channel: grpc.Channel) -> None:
    request = search_pb.SearchRequest(collection="docs", query=search_pb2.Query(vector=[1.0]), filter=many_values())
    assert not search_grpc.SearchServiceStub(channel).Search(request).hits


def filtered_count(channel: grpc.Channel) -> None:
    request = document_pb.CountRequest(collection="docs", filter=many_values())
    assert DocumentServiceStub(channel).Count(request).count == 0


def filtered_list(channel: grpc.Channel) -> None:
    request = document_pb.ListRequest(collection="docs", filter=many_values())
    assert not DocumentServiceStub(channel).List(request).documents


def deletions(channel: grpc.Channel) -> None:
    ids = document_pb.DocumentIds(ids=[f"none-{i}" for i in range(10_000)])
    assert not DocumentServiceStub(channel).Delete(document_pb.DeleteRequest(collection="docs", ids=ids)).deleted_count


def repeated_deletions(channel: grpc.Channel) -> None:
    ids = document_pb.DocumentIds(ids=[f"{i:0500}" for i in range(10_000)])
    request = document_pb.DeleteRequest(collection="docs", ids=ids, request_id="same")
    stub = DocumentServiceStub(channel)
    assert stub.Delete(request) == stub.Delete(request)


def operations(channel: grpc.Channel) -> None:
    fields = struct_pb2.Struct()
    fields.update({"numbers": json.loads(json.dumps(NUMBERS["numbers"]))})

    def requests() -> Iterator[document_pb.IngestRequest]:
        yield document_pb.IngestRequest(start=document_pb.IngestStart(collection="numbers"))
        made = [document_pb2.Document(id=f"new-{i}", vector=[1.0], metadata=fields) for i in range(10)]
        batch = [document_pb.IngestOperation(position=i + 1, upsert=one) for i, one in enumerate(made)]
        yield document_pb.IngestRequest(batch=document_pb.IngestBatch(operations=batch))

    answers = list(DocumentServiceStub(channel).Ingest(requests()))
    assert sum(len(answer.acks.acks) for answer in answers) == 10


@pytest.mark.parametrize(
    "call",
    [
        page,
        documents,
        hits,
        batch,
        metadata,
        filtered_search,
        filtered_count,
        filtered_list,
        deletions,
        repeated_deletions,
        operations,
    ],
    ids=lambda call: call.__name__,
)
def test_the_event_loop_takes_no_long_step(
    call: Callable[[grpc.Channel], None], running: TestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(running.target, options=options) as channel:
        call(channel)
        with watched_steps(monkeypatch) as steps:
            call(channel)
    assert steps.longest_seconds < LONGEST_SECONDS, steps.longest
