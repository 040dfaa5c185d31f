"""Every call that the server's own code fails ends with an ErrorInfo.

The first tests read the code: one function ends calls, and it takes only statuses that carry an ErrorInfo. The others
fail each method of a server and of a worker in each way that stands in front of it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gzip
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

import shortlist_server
from shortlist import Client
from shortlist.v1 import (
    admin_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    error_pb2,
    operation_service_pb2_grpc,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)
from shortlist.worker.v1 import worker_service_pb2_grpc
from shortlist_server import errors
from shortlist_server.config import Config
from shortlist_server.keys import Scope, new_key
from shortlist_server.rpc import health_calls
from shortlist_server.rpc.admin_service import AdminServicer
from shortlist_server.rpc.authorization import RULES, WORKER_RULES
from shortlist_server.rpc.collection_service import CollectionServicer
from shortlist_server.rpc.document_service import DocumentServicer
from shortlist_server.rpc.health import HealthServicer
from shortlist_server.rpc.health_calls import HealthInterceptor
from shortlist_server.rpc.interceptors import CallInterceptor
from shortlist_server.rpc.operation_service import OperationServicer
from shortlist_server.rpc.search_service import SearchServicer
from shortlist_server.rpc.status import STATUS
from shortlist_server.rpc.worker_service import WorkerServicer
from shortlist_server.testing import TestServer, server
from shortlist_server.worker import Worker

Code = grpc.StatusCode
SOURCES = Path(shortlist_server.__file__).parent
WAIT_OPERATION = "/shortlist.v1.OperationService/WaitOperation"
HEALTH = [f"/{health.SERVICE_NAME}/{name}" for name in ("Check", "List", "Watch")]
INGEST = "/shortlist.v1.DocumentService/Ingest"
REFLECTION = [method for method in RULES if method.startswith("/grpc.reflection.")]
WITH_ONE_REQUEST = sorted(RULES.keys() - {INGEST, *REFLECTION})
MALFORMED = b"\xff\xff\xff"
UNKNOWN = ["/shortlist.v1.SearchService/None", f"/{health.SERVICE_NAME}/None", "/none.None/None", "/none"]
KEYS = {scope: new_key(scope.value, [scope]) for scope in Scope}

# ------------------------------------------------------------------------------------------------------------ the code


def test_one_function_of_the_server_ends_calls_and_one_makes_statuses() -> None:
    ending = {"abort", "abort_with_status", "set_code", "set_details", "to_status"}
    found = {
        (str(path.relative_to(SOURCES)), node.func.attr)
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ending
    }
    assert found == {("rpc/status.py", "abort"), ("rpc/status.py", "to_status")}


@pytest.mark.parametrize(
    ("library", "served"),
    [(health.aio.HealthServicer, HealthServicer), (reflection.aio.ReflectionServicer,) * 2],
    ids=["health", "reflection"],
)
def test_no_method_of_a_library_that_ends_calls_is_served(library: type, served: type) -> None:
    methods = dict(inspect.getmembers(library, inspect.isfunction))
    ending = {name for name, value in methods.items() if ".abort" in inspect.getsource(value)}
    assert {name for name in ending if getattr(served, name) is methods[name]} == set()


@pytest.mark.parametrize(
    ("served", "generated"),
    [
        (SearchServicer, search_service_pb2_grpc.SearchServiceServicer),
        (DocumentServicer, document_service_pb2_grpc.DocumentServiceServicer),
        (CollectionServicer, collection_service_pb2_grpc.CollectionServiceServicer),
        (AdminServicer, admin_service_pb2_grpc.AdminServiceServicer),
        (OperationServicer, operation_service_pb2_grpc.OperationServiceServicer),
        (WorkerServicer, worker_service_pb2_grpc.WorkerServiceServicer),
    ],
    ids=attrgetter("__name__"),
)
def test_every_method_is_implemented(served: type, generated: type) -> None:
    methods = inspect.getmembers(generated, inspect.isfunction)
    assert methods
    assert [name for name, value in methods if getattr(served, name) is value] == []


# ----------------------------------------------------------------------------------------------------------- the calls


def failure(
    channel: grpc.Channel, method: str, messages: Iterable[bytes] = (), key: str = "", seconds: float = 20
) -> tuple[Code, str]:
    """The code and the reason with which a call of raw messages ends."""
    call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    with pytest.raises(grpc.RpcError) as caught:
        list(call(iter(messages), metadata=metadata, timeout=seconds))
    status = rpc_status.from_call(caught.value)
    assert status is not None, f"{method} ends without a google.rpc.Status: {caught.value}"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info), method
    assert info.domain == "shortlist"
    assert f"ERROR_REASON_{info.reason}" in error_pb2.ErrorReason.keys()  # noqa: SIM118
    return caught.value.code(), info.reason


def failures(channel: grpc.Channel, methods: Iterable[str], *messages: bytes, key: str = "") -> set[tuple[Code, str]]:
    """The codes and reasons with which all these methods end."""
    return {failure(channel, method, messages, key) for method in methods}


@pytest.fixture(scope="module")
def channel(target: str) -> Iterator[grpc.Channel]:
    with Client(target) as client:
        client.create_collection("docs")
    with grpc.insecure_channel(target) as channel:
        yield channel


INVALID = {(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")}


@pytest.mark.parametrize("method", [*sorted(RULES), *HEALTH])
def test_what_cannot_be_read(channel: grpc.Channel, method: str) -> None:
    for message in (MALFORMED, gzip.compress(bytes(2**20)), gzip.compress(b"cut")[:-3] + b"\0\0\0"):
        assert {failure(channel, method, [message])} == INVALID


@pytest.mark.parametrize("method", [*WITH_ONE_REQUEST, INGEST, *HEALTH])
def test_no_request(channel: grpc.Channel, method: str) -> None:
    assert {failure(channel, method)} == INVALID


def test_too_much_in_a_request(channel: grpc.Channel) -> None:
    many_fields = b"\x78\x01" * 700_000
    assert failures(channel, ["/shortlist.v1.DocumentService/Get", INGEST], many_fields) == INVALID


@pytest.mark.parametrize("method", UNKNOWN)
def test_a_method_that_nobody_serves(channel: grpc.Channel, method: str) -> None:
    assert failure(channel, method, [b""]) == (Code.UNIMPLEMENTED, "UNIMPLEMENTED")
    with pytest.raises(grpc.RpcError) as caught:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        call(b"", metadata=(("x-request-id", "mine"),), timeout=30)
    trailers: Any = caught.value.trailing_metadata()
    assert dict(trailers)["x-request-id"] == "mine"


def test_an_unknown_service_of_the_health_service(channel: grpc.Channel) -> None:
    request = health_pb2.HealthCheckRequest(service="none").SerializeToString()
    assert failure(channel, HEALTH[0], [request]) == (Code.NOT_FOUND, "SERVICE_NOT_FOUND")


@pytest.mark.parametrize("name", ["n" * 100_000, "\u00e9" * 100_000, "\n" * 100_000])
def test_an_error_that_quotes_a_long_name_fits_into_what_clients_take(channel: grpc.Channel, name: str) -> None:
    embedder = collection_service_pb2.CreateCollectionRequest(collection="a")
    embedder.config.embedder = name
    assert failure(channel, "/shortlist.v1.CollectionService/CreateCollection", [embedder.SerializeToString()])
    field = collection_service_pb2.UpdateCollectionRequest(collection="docs")
    field.update_mask.paths.append(name)
    assert failure(channel, "/shortlist.v1.CollectionService/UpdateCollection", [field.SerializeToString()])


def test_callers_without_a_key_a_scope_or_a_collection() -> None:
    granted, key = new_key("granted", [Scope.READ], ["mine"])
    with (
        server(api_keys=(key.entry(), *(key.entry() for _, key in KEYS.values()))) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        unknown = {(Code.UNAUTHENTICATED, "UNAUTHENTICATED")}
        denied = {(Code.PERMISSION_DENIED, "PERMISSION_DENIED")}
        assert failures(channel, RULES, b"") == unknown
        assert failures(channel, RULES, b"", key="sl_unknown") == unknown
        for method, rule in RULES.items():
            other = next(secret for scope, (secret, _) in KEYS.items() if scope is not rule.scope)
            assert failures(channel, [method], b"", key=other) == denied, method
        count = search_service_pb2.SearchRequest(collection="\u00e9" * 100_000).SerializeToString()
        assert failures(channel, ["/shortlist.v1.SearchService/Search"], count, key=granted) == denied


def test_a_caller_that_calls_too_often() -> None:
    with server(max_requests_per_second=0.001) as running, grpc.insecure_channel(running.target) as channel:
        with Client(running.target) as client:
            assert list(client.list_collections()) == []
        assert failures(channel, RULES, b"") == {(Code.RESOURCE_EXHAUSTED, "OVERLOADED")}


def count_ends_with(channel: grpc.Channel) -> str:
    """The reason with which counting documents fails; "" where it does not."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/shortlist.v1.DocumentService/Count")
    try:
        call(document_service_pb2.CountRequest(collection="docs").SerializeToString(), timeout=20)
    except grpc.RpcError as error:
        info = error_details_pb2.ErrorInfo()
        rpc_status.from_call(error).details[0].Unpack(info)
        return str(info.reason)
    return ""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def waiting_search(target: str, channel: grpc.Channel) -> Iterator[None]:
    """While the block runs, a search waits for a change that does not come, and is the one call that may be served."""
    with Client(target) as client:
        client.create_collection("docs")
    search = search_service_pb2_grpc.SearchServiceStub(channel).Search
    query = search_pb2.Query(text="owls")
    request = search_service_pb2.SearchRequest(collection="docs", query=query, min_sequence=2)
    waiting = search.future(request, timeout=60)

    def is_served() -> bool:
        nonlocal waiting
        if waiting.done():  # It was refused, because documents were just being counted.
            waiting = search.future(request, timeout=60)
        return count_ends_with(channel) == "OVERLOADED"

    until(is_served)
    yield
    waiting.cancel()


def test_more_calls_than_are_served_at_once() -> None:
    with (
        server(max_concurrent_rpcs=1) as running,
        grpc.insecure_channel(running.target) as channel,
        waiting_search(running.target, channel),
    ):
        limited = set(WITH_ONE_REQUEST) - {WAIT_OPERATION}
        assert failures(channel, limited, b"") == {(Code.RESOURCE_EXHAUSTED, "OVERLOADED")}


def test_a_server_that_stops(tmp_path: Path) -> None:
    running = TestServer(tmp_path, max_concurrent_rpcs=1)
    running.start()
    with grpc.insecure_channel(running.target) as channel:
        with waiting_search(running.target, channel):
            stopping = threading.Thread(target=running.stop, args=(20.0,))
            stopping.start()
            until(lambda: count_ends_with(channel) == "UNAVAILABLE")
            found = failures(channel, RULES, b"")
        stopping.join(30)
    assert found == {(Code.UNAVAILABLE, "UNAVAILABLE")}


def test_a_request_that_does_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_calls, "PROBE_SECONDS", 0.1)
    over = threading.Event()

    def never() -> Iterator[bytes]:
        over.wait(30)
        yield b""

    with (
        server(max_deadline_seconds=0.1, stream_start_seconds=0.1) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        found = {method: failure(channel, method, never()) for method in [*WITH_ONE_REQUEST, *HEALTH]}
        stream = failure(channel, INGEST, never())
        over.set()
    assert set(found.values()) == {(Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")}
    assert stream == (Code.UNAVAILABLE, "UNAVAILABLE")


async def test_a_worker(tmp_path: Path) -> None:
    keys = tuple(key.entry() for _, key in KEYS.values())
    config = Config(data_dir=tmp_path, listen="127.0.0.1:0", embedders=("hashing",), api_keys=keys)
    worker = Worker(config)
    port = await worker.start()

    def call_all() -> None:
        reader, writer = KEYS[Scope.READ][0], KEYS[Scope.WRITE][0]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert failures(channel, HEALTH, MALFORMED) == INVALID
            assert failures(channel, WORKER_RULES, MALFORMED, key=reader) == INVALID
            assert failures(channel, WORKER_RULES, b"") == {(Code.UNAUTHENTICATED, "UNAUTHENTICATED")}
            assert failures(channel, WORKER_RULES, b"", key=writer) == {(Code.PERMISSION_DENIED, "PERMISSION_DENIED")}
            assert failures(channel, UNKNOWN, b"", key=reader) == {(Code.UNIMPLEMENTED, "UNIMPLEMENTED")}
            naming = WORKER_RULES.keys() - {"/shortlist.worker.v1.WorkerService/Describe"}
            assert failures(channel, naming, b"", key=reader) == {(Code.NOT_FOUND, "MODEL_NOT_FOUND")}

    try:
        await asyncio.to_thread(call_all)
    finally:
        await worker.stop(0)


# ------------------------------------------------------------------------------------ what a method itself may raise


def raising(error: Exception) -> dict[str, Any]:
    """A handler for each kind of method, by the method's path; all raise this error."""

    async def one(request: bytes, context: Any) -> bytes:
        raise error

    async def several(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b""
        raise error

    async def both(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
        raise error

    return {
        "/test.Test/One": grpc.unary_unary_rpc_method_handler(one),
        "/test.Test/Several": grpc.unary_stream_rpc_method_handler(several),
        "/test.Test/Both": grpc.stream_stream_rpc_method_handler(both),
        HEALTH[0]: grpc.unary_unary_rpc_method_handler(one),
        HEALTH[2]: grpc.unary_stream_rpc_method_handler(one),
    }


class Handlers(grpc.GenericRpcHandler):
    """Serves methods by their paths."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


@pytest.mark.parametrize("cls", [*STATUS, errors.ShortlistError, RuntimeError, KeyError], ids=attrgetter("__name__"))
async def test_any_error_of_any_kind_of_method(cls: Callable[[str], Exception]) -> None:
    error = cls("what is wrong")
    handlers = raising(error)
    calls = CallInterceptor(max_concurrent=9, max_seconds=20)
    served = grpc.aio.server(interceptors=[HealthInterceptor(Config()), calls])
    served.add_generic_rpc_handlers((Handlers(handlers),))
    port = served.add_insecure_port("127.0.0.1:0")
    await served.start()

    def call_all() -> set[tuple[Code, str]]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            return failures(channel, handlers, b"")

    try:
        found = await asyncio.to_thread(call_all)
    finally:
        await served.stop(0)
    if isinstance(error, errors.ShortlistError) and type(error) in STATUS:
        assert found == {(STATUS[type(error)], error.reason)}
    else:
        assert found == {(Code.INTERNAL, "INTERNAL")}
