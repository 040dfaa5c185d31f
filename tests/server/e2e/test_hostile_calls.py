"""What a caller can make the server spend who sends too much, takes nothing, or has no key."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from shortlist import Client, CollectionConfig, Document, ShortlistError
from shortlist.v1 import document_service_pb2, search_pb2, search_service_pb2, search_service_pb2_grpc
from shortlist_server.keys import Scope, new_key
from shortlist_server.testing import server

BATCH_SEARCH = "/shortlist.v1.SearchService/BatchSearch"
LIST = "/shortlist.v1.DocumentService/List"
MANY = 2_000_000
EMPTY_SEARCHES = b"\n\0" * MANY
"""A BatchSearchRequest of so many empty searches."""


def resident_bytes() -> int:
    """Memory of this process, which the servers of these tests share."""
    return psutil.Process().memory_info().rss


def refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def unary(channel: grpc.Channel, method: str) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary(method)


def streaming(channel: grpc.Channel, method: str) -> grpc.StreamUnaryMultiCallable[bytes, bytes]:
    return channel.stream_unary(method)


def setting_of(error: grpc.RpcError | grpc.Call) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status is not None and status.details[0].Unpack(info), error
    setting: str = info.metadata["setting"]
    return setting


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Greatest:
    """The greatest growth of the process while the block runs."""

    def __enter__(self) -> Greatest:
        self.grown = 0
        self._begin = resident_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.grown = max(self.grown, resident_bytes() - self._begin)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Unreading:
    """A connection that opens no window for any answer."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._http = h2.connection.H2Connection(
            config=h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._http.initiate_connection()
        self._http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        self._socket.sendall(self._http.data_to_send())

    def call(self, method: str, message: bytes) -> int:
        """Sends a call with one request; its stream."""
        stream: int = self._http.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._http.send_headers(stream, headers)
        self._http.send_data(stream, b"\0" + struct.pack(">I", len(message)) + message, end_stream=True)
        self._socket.sendall(self._http.data_to_send())
        return stream

    def statuses(self, count: int, seconds: float) -> dict[int, str]:
        """The status of each of so many streams; less when they do not end in time."""
        found: dict[int, str] = {}
        end = time.monotonic() + seconds
        while len(found) < count and (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                break
            if not data:
                break
            for event in self._http.receive_data(data):
                if isinstance(event, h2.events.StreamReset) and event.stream_id is not None:
                    found.setdefault(event.stream_id, "reset")
                if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                    headers: dict[str | bytes, str | bytes] = dict(event.headers or ())
                    status = headers.get("grpc-status")
                    if isinstance(status, str) and event.stream_id is not None:
                        found[event.stream_id] = status
            self._socket.sendall(self._http.data_to_send())
        return found

    def close(self) -> None:
        self._socket.close()


def all_statuses(connections: list[Unreading], calls: int, call: Callable[[], object]) -> list[dict[int, str]]:
    """The statuses of connections with so many calls each, as far as they come within twenty seconds.

    gRPC holds the last call of a method until there is another: ``call`` makes one.
    """
    found: list[dict[int, str]] = [{} for _ in connections]
    end = time.monotonic() + 20
    while sum(map(len, found)) < calls * len(connections) and time.monotonic() < end:
        for number, connection in enumerate(connections):
            found[number] |= connection.statuses(calls - len(found[number]), 0.2)
        with contextlib.suppress(ShortlistError):
            call()
    return found


@pytest.fixture
def unreading() -> Iterator[Callable[[str], Unreading]]:
    made: list[Unreading] = []

    def connect(target: str) -> Unreading:
        made.append(Unreading(target))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def test_a_call_without_a_key_is_refused_before_its_request_is_read(tmp_path: Path) -> None:
    _, key = new_key("reader", [Scope.READ])
    with (
        server(data_dir=tmp_path, api_keys=(key.entry(),)) as running,
        grpc.insecure_channel(running.target) as channel,
    ):
        # A stream of requests, of which none is ever sent, looks to the server as a call whose request is on its way.
        over = threading.Event()

        def never() -> Iterator[bytes]:
            over.wait(10)
            yield b""

        begin = time.monotonic()
        error = refused(lambda: streaming(channel, BATCH_SEARCH)(never(), timeout=10))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - begin < 5
        over.set()
        with Greatest() as memory:
            for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
                error = refused(
                    partial(unary(channel, BATCH_SEARCH), EMPTY_SEARCHES, timeout=20, compression=compression)
                )
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert memory.grown < 64 * 2**20


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_millions_of_elements_are_counted_before_any_is_made(compression: grpc.Compression) -> None:
    with server() as running, grpc.insecure_channel(running.target) as channel:
        call = unary(channel, BATCH_SEARCH)
        with Greatest() as memory:
            error = refused(lambda: call(EMPTY_SEARCHES, timeout=20, compression=compression))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert ("more than 100 elements" in str(error.details())) is (compression is grpc.Compression.NoCompression)
        if compression is grpc.Compression.Gzip:
            # Seldom enough to be compressed as any text, and still far too many.
            few = b"".join(b"\n\x02\x0a\0" if one & 1 else b"\n\0" for one in random.Random(1).randbytes(200_000))
            error = refused(lambda: call(few, timeout=20, compression=compression))
            assert error.details() == "requests has more than 100 elements"
        # The two million objects alone would have some 260 MB.
        assert memory.grown < 64 * 2**20


def test_an_honest_message_may_be_compressed(tmp_path: Path) -> None:
    with server(data_dir=tmp_path) as running, Client(running.target) as client:
        client.create_collection("docs")
        client.ingest("docs", [Document(id="a", text="a document about owls")]).finish()
        with grpc.insecure_channel(running.target, compression=grpc.Compression.Gzip) as channel:
            query = search_pb2.Query(text="owls " * 5000)
            request = search_service_pb2.SearchRequest(collection="docs", query=query)
            assert search_service_pb2_grpc.SearchServiceStub(channel).Search(request, timeout=20).hits


@pytest.mark.parametrize(
    ("raw", "details"),
    [
        (gzip.compress(random.Random(1).randbytes(200_000))[:-100] + b"\0\0\1\0", "cannot be decompressed"),
        (gzip.compress(random.Random(1).randbytes(200_000)) + b"\0\0\1\0", "cannot be decompressed"),
        (gzip.compress(bytes(2**20)), "more than 64 times as many"),
        (gzip.compress(b"", 1)[:-4] + bytes(2**20) + b"\0\0\0\3", "at most 33554432 are allowed"),
    ],
    ids=["cut", "of another size than it says", "a thousand times as large", "too large"],
)
def test_a_compressed_message_that_is_not_what_it_says_is_an_invalid_argument(raw: bytes, details: str) -> None:
    with server() as running, grpc.insecure_channel(running.target) as channel:
        # The server tells a compressed message by its first bytes.
        error = refused(lambda: unary(channel, BATCH_SEARCH)(raw, timeout=20))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details in (error.details() or "")


def test_a_million_filters_stop_nothing() -> None:
    inner = b"\n\0" * 1_000_000
    message = b"\n" + _size(len(inner)) + inner
    request = search_service_pb2.SearchRequest(collection="docs", query=search_pb2.Query(text="x"))
    data = request.SerializeToString() + b"\x4a" + _size(len(message)) + message
    longest = 0.0
    over = threading.Event()
    with server() as running, grpc.insecure_channel(running.target) as channel:

        def probe() -> None:
            nonlocal longest
            with grpc.insecure_channel(running.target) as own:
                stub = health_pb2_grpc.HealthStub(own)
                while not over.wait(0.01):
                    begin = time.monotonic()
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
                    longest = max(longest, time.monotonic() - begin)

        probing = threading.Thread(target=probe)
        probing.start()
        for _ in range(3):
            error = refused(lambda: unary(channel, "/shortlist.v1.SearchService/Search")(data, timeout=20))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "filter.all_of.filters has more than 256 elements" in (error.details() or "")
        over.set()
        probing.join()
    assert longest < 2


def test_a_request_that_does_not_arrive_keeps_no_place_for_long() -> None:
    with server(max_concurrent_rpcs=64) as running, grpc.insecure_channel(running.target) as channel:
        over = threading.Event()

        def never() -> Iterator[bytes]:
            over.wait(20)
            yield b""

        calls = [streaming(channel, BATCH_SEARCH).future(never(), timeout=20) for _ in range(12)]
        until(lambda: sum(call.done() for call in calls) >= 4)
        assert {setting_of(call) for call in calls if call.done()} == {"max_slow_requests_per_caller"}
        over.set()


def test_answers_that_nobody_takes_are_bounded_and_their_calls_end(
    tmp_path: Path, unreading: Callable[[str], Unreading]
) -> None:
    with server(data_dir=tmp_path, max_answer_seconds=2.0) as running, Client(running.target) as client:
        client.create_collection("a", CollectionConfig(embedder="none", dimension=1))
        documents = [Document(id=str(i), text="x" * 500_000, vector=[1.0]) for i in range(10)]
        client.ingest("a", documents).finish()
        request = document_service_pb2.ListRequest(collection="a").SerializeToString()

        def one_page() -> object:
            return next(iter(client.list("a", page_size=1)))

        with Greatest() as memory:
            connections = [unreading(running.target) for _ in range(3)]
            for connection in connections:
                for _ in range(10):
                    connection.call(LIST, request)
            # Thirty answers of four megabytes; some are refused, the others are cancelled after a while.
            statuses = [status for each in all_statuses(connections, 10, one_page) for status in each.values()]
        assert memory.grown < 200 * 2**20
        assert len(statuses) == 30
        cancelled, exhausted = str(grpc.StatusCode.CANCELLED.value[0]), str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        assert set(statuses) == {cancelled, exhausted}
        assert [document.id for document in client.list("a", page_size=3)]
        assert len(client.search("a", vector=[1.0], limit=3).hits) == 3


def test_small_answers_that_nobody_takes_end_too(tmp_path: Path, unreading: Callable[[str], Unreading]) -> None:
    with server(data_dir=tmp_path, max_answer_seconds=0.5) as running, Client(running.target) as client:
        client.create_collection("docs")
        connection = unreading(running.target)
        request = document_service_pb2.CountRequest(collection="docs").SerializeToString()
        for _ in range(300):
            connection.call("/shortlist.v1.DocumentService/Count", request)
        assert len(all_statuses([connection], 300, lambda: client.count("docs"))[0]) == 300
        assert client.count("docs") == 0


def test_health_watches_are_bounded_for_each_address_and_probes_are_answered() -> None:
    with server(max_health_watches=64) as running, grpc.insecure_channel(running.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        watches = [stub.Watch(request) for _ in range(8)]
        assert all(next(watch).status == health_pb2.HealthCheckResponse.SERVING for watch in watches)
        error = refused(lambda: next(stub.Watch(request)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert setting_of(error) == "max_health_watches_per_address"
        assert stub.Check(request, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        watches.pop().cancel()
        until(lambda: _watches(stub))
        assert refused(lambda: stub.Check(health_pb2.HealthCheckRequest(service="x" * 2000), timeout=10)).code() is (
            grpc.StatusCode.INVALID_ARGUMENT
        )
        for watch in watches:
            watch.cancel()


def _watches(stub: health_pb2_grpc.HealthStub) -> bool:
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    try:
        answer: health_pb2.HealthCheckResponse = next(watch)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    except grpc.RpcError:
        return False
    finally:
        watch.cancel()


def test_connections_over_the_limit_are_closed_and_those_that_say_nothing_make_room() -> None:
    with server(max_connections=4) as running, grpc.insecure_channel(running.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        host, _, port = running.target.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(8)]
        closed = 0
        for one in silent:
            one.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                closed += not one.recv(1 << 16)
        assert closed >= 5
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        for one in silent:
            one.close()


def test_a_batch_whose_answer_is_too_large_stops_when_that_is_known(tmp_path: Path) -> None:
    with server(data_dir=tmp_path, max_message_bytes=4 * 2**20) as running, Client(running.target) as client:
        client.create_collection("a", CollectionConfig(embedder="none", dimension=1))
        client.ingest("a", [Document(id=str(i), text="x" * 500_000, vector=[1.0]) for i in range(20)]).finish()
        with grpc.insecure_channel(running.target) as channel:
            stub = search_service_pb2_grpc.SearchServiceStub(channel)
            query = search_pb2.Query(vector=[1.0])
            search = search_service_pb2.SearchRequest(collection="a", query=query, limit=6)
            with Greatest() as memory:
                batch = search_service_pb2.BatchSearchRequest(requests=[search] * 100)
                error = refused(lambda: stub.BatchSearch(batch, timeout=60))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert setting_of(error) == "max_message_bytes"
            # Whole it would have 300 MB.
            assert memory.grown < 100 * 2**20
            search.limit = 20
            assert setting_of(refused(lambda: stub.Search(search, timeout=60))) == "max_message_bytes"


def _size(value: int) -> bytes:
    """A varint."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
