"""Whatever bytes a client sends, every method answers in time with a status that is not the server's fault.

Messages are made in two ways: a good message of which some fields are filled with extremes, by the descriptor; and the
bytes of such messages cut, flipped and repeated. SHORTLIST_FUZZ_EXAMPLES sets how many of each (default 40 a method).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shortlist import Client, CollectionConfig, CollectionExists, Document
from shortlist.v1 import (
    admin_service_pb2,
    collection_service_pb2,
    document_service_pb2,
    operation_service_pb2,
    search_service_pb2,
)
from shortlist.worker.v1 import worker_service_pb2
from shortlist_server.config import Config
from shortlist_server.inference.hashing import DEFAULT_DIMENSION, HashingEmbedder
from shortlist_server.testing import server
from shortlist_server.worker import Worker

EXAMPLES = int(os.environ.get("SHORTLIST_FUZZ_EXAMPLES", "40"))
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
METHODS = [
    method
    for module in (
        admin_service_pb2,
        collection_service_pb2,
        document_service_pb2,
        operation_service_pb2,
        search_service_pb2,
        health_pb2,
        worker_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
STARTS = b"\n\x07\n\x05texts"
"""An IngestRequest that opens a stream into the collection "texts"."""

MODEL = {"model": "hashing", "revision": HashingEmbedder("hashing", DEFAULT_DIMENSION).info.revision}

GOOD: dict[str, dict[str, Any]] = {
    "SearchRequest": {"collection": "texts", "query": {"text": "text 3"}},
    "BatchSearchRequest": {"requests": [{"collection": "texts", "query": {"text": "text 3"}}]},
    "IngestRequest": {"batch": {"operations": [{"position": 1, "upsert": {"id": "new", "text": "new text"}}]}},
    "IngestOperation": {"position": 1, "upsert": {"id": "new", "text": "new text"}},
    "Document": {"id": "new", "text": "new text"},
    "Filter": {"equals": {"field": "a.b", "value": {"number_value": 3}}},
    "Equals": {"field": "a.b", "value": {"string_value": "x"}},
    "OneOf": {"field": "a.b", "values": [{"string_value": "x"}]},
    "Range": {"field": "a.b", "gt": {"number_value": 3}},
    "Exists": {"field": "a.b"},
    "Contains": {"field": "a.b", "value": {"bool_value": True}},
    "GetRequest": {"ids": ["d1", "d2"]},
    "DeleteRequest": {"ids": {"ids": ["d1"]}},
    "DocumentIds": {"ids": ["d1"]},
    "BackupRequest": {"name": "one"},
    "RestoreRequest": {"backup": "one", "collection": "texts", "new_name": "restored"},
    "StartReindexRequest": {"chunking": {"max_tokens": 64}},
    "CompareGenerationsRequest": {
        "queries": [{"id": "q", "text": "text 3", "qrels": [{"document_id": "d3", "grade": 1}]}]
    },
    "HealthCheckRequest": {"service": "shortlist.v1.SearchService"},
    "CutRequest": {**MODEL, "text": "many words " * 99, "passage_tokens": 16, "overlap_tokens": 4, "overflow": 1},
    "EmbedQueriesRequest": {**MODEL, "queries": [{"text": "a text"}]},
    "EmbedPassagesRequest": {**MODEL, "contents": ["a text"], "token_vectors": True},
    "RenderQueryRequest": {**MODEL, "query": {"text": "a text"}},
}
"""Fields of messages that are accepted; others that have a collection or a name are accepted with "texts"."""

HOSTILE = [
    "texts",
    "vectors",
    "",
    "a",
    "a.b",
    "../../etc/passwd",
    "'; DROP TABLE documents; --",
    '"] OR 1=1 --',
    "$[0]",
    "%_*",
    'a" OR "b NEAR c',
    "NEAR(",
    "\0",
    "\u202e\ufffe\U0010ffff",
    "x" * 5000,
    "{}",
    "NaN",
]
NUMBERS = [0, 1, -1, 2, 10, 999, 1001, 2**31 - 1, -(2**31)]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf")]
LARGE = [*NUMBERS, 2**63 - 1, -(2**63)]


def field_values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values of one field, most of them unreasonable."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=40)
        names = st.sampled_from(["texts", "vectors"]) if field.name in ("collection", "name") else st.nothing()
        return names | st.sampled_from(HOSTILE) | st.text(max_size=20)
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        assert field.message_type is not None
        return messages(field.message_type, depth + 1)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        return st.integers(0, len(field.enum_type.values) + 1)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.sampled_from(FLOATS) | st.floats()
    if kind == FieldDescriptor.CPPTYPE_FLOAT:
        return st.sampled_from(FLOATS) | st.floats(width=32)
    unsigned = kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
    wide = kind in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
    return st.sampled_from([n for n in (LARGE if wide else NUMBERS) if n >= 0 or not unsigned])


def good(descriptor: Descriptor) -> Message:
    """A message that is accepted, or nearly."""
    message: Message = GetMessageClass(descriptor)()
    if descriptor.name in GOOD:
        ParseDict(GOOD[descriptor.name], message)
    for name in ("collection", "name"):
        field = descriptor.fields_by_name.get(name)
        if field is not None and descriptor.name.endswith("Request") and not getattr(message, name):
            setattr(message, name, "texts")
    return message


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Message:
    """A good message, but for a few of its fields."""
    message = good(descriptor)
    if not descriptor.fields or depth > 8:
        return message
    for field in draw(st.lists(st.sampled_from(list(descriptor.fields)), max_size=3, unique_by=lambda f: f.name)):
        message.ClearField(field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in draw(st.lists(st.sampled_from(HOSTILE), max_size=2)):
                kind = field.message_type.fields_by_name["value"].message_type
                assert kind is not None
                value = draw(messages(kind, depth + 1))
                getattr(message, field.name)[key].CopyFrom(value)
        elif field.is_repeated:
            size = draw(st.sampled_from([0, 1, 2, 8]))
            getattr(message, field.name).extend(draw(field_values(field, depth)) for _ in range(size))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(field_values(field, depth)))
        else:
            setattr(message, field.name, draw(field_values(field, depth)))
    return message


@st.composite
def mangled(draw: st.DrawFn, descriptor: Descriptor) -> bytes:
    """The bytes of a message, changed here and there."""
    data = bytearray(draw(messages(descriptor, 7)).SerializeToString()) or bytearray(b"\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del data[at:]
            case 2:
                data[at:at] = draw(st.binary(min_size=1, max_size=8))
            case 3:
                data[at:at] = data[at : at + 16] * 3
            case 4:
                data[at:at] = b"\x0a" * 200
    return bytes(data)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # A search may wait for a sequence that never comes, as long as its deadline allows.
    with server(data_dir=tmp_path_factory.mktemp("data"), max_deadline_seconds=0.5) as running:
        yield running.target


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel to a worker that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    config = Config(data_dir=tmp_path_factory.mktemp("worker"), embedders=("hashing",), listen="127.0.0.1:0")
    running = Worker(config)
    port = asyncio.run_coroutine_threadsafe(running.start(), loop).result(30)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    asyncio.run_coroutine_threadsafe(running.stop(5), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def channel(target: str) -> Iterator[grpc.Channel]:
    """A channel to a server whose two collections are there, whatever the test before did to them."""
    with Client(target) as client:
        for name, config in {
            "texts": CollectionConfig(filterable_fields=("a", "a.b")),
            "vectors": CollectionConfig(embedder="none", dimension=8),
        }.items():
            with contextlib.suppress(CollectionExists):
                client.create_collection(name, config)
        documents = [Document(id=f"d{i}", text=f"text {i}", metadata={"a": {"b": i}}) for i in range(20)]
        client.ingest("texts", documents).finish()
    with grpc.insecure_channel(target) as channel:
        yield channel


def send(channel: grpc.Channel, method: Any, data: bytes) -> grpc.StatusCode:
    """Sends bytes to a method as they are; the status it ends with."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    stream_stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    unary_stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(path)
    unary_unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    try:
        if method.client_streaming:
            list(stream_stream(iter([data]), timeout=20))
            list(stream_stream(iter([STARTS, data]), timeout=20))
        elif method.name == "Watch":
            next(unary_stream(data, timeout=20))
        elif method.server_streaming:
            list(unary_stream(data, timeout=20))
        else:
            unary_unary(data, timeout=20)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mangle", [False, True], ids=["hostile fields", "mangled bytes"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_message_makes_a_method_fail_hang_or_leak(
    channel: grpc.Channel, worker: grpc.Channel, method: Any, mangle: bool, caplog: pytest.LogCaptureFixture
) -> None:
    called = worker if method.containing_service.name == "WorkerService" else channel
    before = psutil.Process().memory_info().rss
    kind = method.input_type
    data = mangled(kind) if mangle else messages(kind).map(lambda message: message.SerializeToString())

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES <= 100,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=data)
    def send_all(data: bytes) -> None:
        begin = time.monotonic()
        code = send(called, method, data)
        assert code not in FAULTS, code
        assert time.monotonic() - begin < 10

    with caplog.at_level(logging.ERROR):
        send_all()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert psutil.Process().memory_info().rss - before < 300 << 20


def test_bytes_that_are_no_message_are_an_invalid_argument(channel: grpc.Channel, worker: grpc.Channel) -> None:
    for method in METHODS:
        called = worker if method.containing_service.name == "WorkerService" else channel
        assert send(called, method, b"\xff\xff\xff") is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("number", [number for number in NUMBERS if number not in (0, 1, 2)])
def test_a_worker_cuts_with_no_overlap_that_cannot_be(worker: grpc.Channel, number: int) -> None:
    request = worker_service_pb2.CutRequest()
    ParseDict({**GOOD["CutRequest"], "overlap_tokens": number}, request)
    method = worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"].methods_by_name["Cut"]
    assert send(worker, method, request.SerializeToString()) is grpc.StatusCode.INVALID_ARGUMENT
