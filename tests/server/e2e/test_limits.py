"""What one caller, or all together, may have under way; and how a server that stops takes leave."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from shortlist import Client, CollectionConfig, Document, Include, InvalidArgument, SearchQuery
from shortlist.v1 import document_pb2, search_pb2, search_service_pb2, search_service_pb2_grpc
from shortlist.v1 import document_service_pb2 as pb
from shortlist.v1 import document_service_pb2_grpc as pb_grpc
from shortlist_server.inference.base import QueryEmbedding, QueryText
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.keys import Scope, new_key
from shortlist_server.rpc.limits import AdmissionQueue, Shared
from shortlist_server.testing import TestServer, server

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
START = pb.IngestRequest(start=pb.IngestStart(collection="docs"))


class Started:
    """A server with some settings and a collection "docs", started when the test says how."""

    def __init__(self, folder: Path, parts: contextlib.ExitStack) -> None:
        self._folder = folder
        self._parts = parts
        self.target = ""

    def __call__(self, **settings: Any) -> grpc.Channel:
        """Starts it and gives a channel to it."""
        self.target = self._parts.enter_context(server(data_dir=self._folder, **settings)).target
        with Client(self.target) as client:
            client.create_collection("docs")
            client.ingest("docs", [Document(id="a", text="a document about owls")]).finish()
        return self._parts.enter_context(grpc.insecure_channel(self.target))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    with contextlib.ExitStack() as parts:
        yield Started(tmp_path, parts)


def waiting_search(sequence: int = 10**6) -> search_service_pb2.SearchRequest:
    """A search that waits for a change that does not come."""
    query = search_pb2.Query(text="owls")
    return search_service_pb2.SearchRequest(collection="docs", query=query, min_sequence=sequence)


def search(channel: grpc.Channel) -> None:
    query = search_pb2.Query(text="owls")
    request = search_service_pb2.SearchRequest(collection="docs", query=query)
    assert search_service_pb2_grpc.SearchServiceStub(channel).Search(request, timeout=10).hits


def gets_in(channel: grpc.Channel) -> bool:
    """Whether an ingest stream may begin now."""
    try:
        return bool(list(pb_grpc.DocumentServiceStub(channel).Ingest(iter([START]), timeout=10)))
    except grpc.RpcError as error:
        assert refusal(error)[0] == "max_ingest_streams"
        return False


def refusal(error: grpc.RpcError) -> tuple[str, float]:
    """The setting that was reached, and the seconds to wait."""
    assert error.code() is EXHAUSTED, error
    status = rpc_status.from_call(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status is not None and status.details[0].Unpack(info) and status.details[-1].Unpack(retry)
    return info.metadata["setting"], retry.retry_delay.ToTimedelta().total_seconds()


class OpenStream:
    """An ingest stream that sends what it is told and then nothing."""

    def __init__(self, channel: grpc.Channel, *messages: pb.IngestRequest, metadata: Any = ()) -> None:
        self.ended = threading.Event()

        def requests() -> Iterator[pb.IngestRequest]:
            yield from messages
            self.ended.wait(30)

        self.call = pb_grpc.DocumentServiceStub(channel).Ingest(requests(), metadata=metadata)

    def close(self) -> None:
        self.ended.set()
        self.call.cancel()


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, queries are not embedded: searches work, and hold their turns."""
    opened = threading.Event()
    embed = HashingEmbedder.embed_queries

    def held(self: HashingEmbedder, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        assert opened.wait(30)
        return embed(self, queries)

    opened.set()
    monkeypatch.setattr(HashingEmbedder, "embed_queries", held)
    yield opened
    opened.set()


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> list[AdmissionQueue]:
    """The admission queues made during the test."""
    made: list[AdmissionQueue] = []
    make = AdmissionQueue.__init__

    def remember(self: AdmissionQueue, *arguments: Any) -> None:
        make(self, *arguments)
        made.append(self)

    monkeypatch.setattr(AdmissionQueue, "__init__", remember)
    return made


def hold_turns(channel: grpc.Channel, gate: threading.Event, queues: list[AdmissionQueue], turns: int) -> list[Any]:
    """Searches that work until the gate is opened; all the turns there are."""
    gate.clear()
    stub = search_service_pb2_grpc.SearchServiceStub(channel)
    query = search_pb2.Query(text="a query that nobody has asked yet")
    request = search_service_pb2.SearchRequest(collection="docs", query=query)
    working = [stub.Search.future(request, timeout=30) for _ in range(turns)]
    until(lambda: queues[-1].all_taken)
    return working


def test_a_search_over_the_limit_is_refused_at_once_and_other_calls_are_not(
    start: Started, gate: threading.Event, queues: list[AdmissionQueue]
) -> None:
    channel = start(max_concurrent_searches=2, max_search_wait_seconds=0.0)
    working = hold_turns(channel, gate, queues, 2)
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        search(channel)
    assert time.monotonic() - begin < 0.5
    setting, seconds = refusal(caught.value)
    assert setting == "max_concurrent_searches"
    assert 0 < seconds < 5
    assert pb_grpc.DocumentServiceStub(channel).Count(pb.CountRequest(collection="docs"), timeout=5).count == 1
    gate.set()
    assert all(call.result().hits for call in working)
    search(channel)


def test_a_burst_of_searches_waits_for_its_turn_and_a_wait_that_is_too_long_is_refused(
    start: Started, gate: threading.Event, queues: list[AdmissionQueue]
) -> None:
    channel = start(max_concurrent_searches=2, max_search_wait_seconds=0.5)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: search(channel), range(64)))
    working = hold_turns(channel, gate, queues, 2)
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        search(channel)
    assert 0.3 < time.monotonic() - begin < 3
    assert refusal(caught.value)[0] == "max_concurrent_searches"
    gate.set()
    assert all(call.result().hits for call in working)


def test_searches_that_wait_for_a_sequence_hold_no_turn_and_are_bounded_for_each_caller(start: Started) -> None:
    channel = start(max_concurrent_searches=2, max_search_wait_seconds=0.0, max_sequence_waits=32)
    stub = search_service_pb2_grpc.SearchServiceStub(channel)
    waiting = [stub.Search.future(waiting_search(2), timeout=30) for _ in range(9)]
    until(lambda: any(call.done() for call in waiting))
    (refused,) = [call for call in waiting if call.done()]
    error = refused.exception()
    assert isinstance(error, grpc.RpcError)
    assert refusal(error)[0] == "max_sequence_waits_per_caller"
    search(channel)
    with Client(start.target) as client:
        client.ingest("docs", [Document(id="b", text="another about owls")]).finish()
    # Eight go on at once, for two turns.
    codes = [call.code() for call in waiting if call is not refused]
    assert set(codes) <= {grpc.StatusCode.OK, EXHAUSTED} and grpc.StatusCode.OK in codes


def test_a_batch_that_waits_for_a_sequence_has_one_place_among_those_that_wait(
    start: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Shared] = []
    make = Shared.__init__

    def remember(self: Shared, *arguments: Any) -> None:
        make(self, *arguments)
        made.append(self)

    monkeypatch.setattr(Shared, "__init__", remember)
    channel = start(max_sequence_waits=4)
    stub = search_service_pb2_grpc.SearchServiceStub(channel)
    requests = [waiting_search(2)] * 20
    batch = stub.BatchSearch.future(search_service_pb2.BatchSearchRequest(requests=requests), timeout=30)

    # The place among those that wait comes first, the turn second. Were it a place for each search, most would be
    # refused.
    until(lambda: bool(made) and made[0]._users == 20)
    with Client(start.target) as client:
        client.ingest("docs", [Document(id="b", text="another about owls")]).finish()
    assert all(result.response.hits for result in batch.result().results)


def test_a_sequence_that_no_one_can_reach_in_time_is_told_at_once(start: Started) -> None:
    channel = start()
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        search_service_pb2_grpc.SearchServiceStub(channel).Search(waiting_search(10**9), timeout=30)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert time.monotonic() - begin < 5


async def test_a_thousand_open_streams_do_not_starve_searches(start: Started) -> None:
    searching = start(max_ingest_streams=20, max_ingest_streams_per_caller=0, stream_start_seconds=60.0)
    async with grpc.aio.insecure_channel(start.target) as channel:
        stub = pb_grpc.DocumentServiceStub(channel)
        streams = [stub.Ingest() for _ in range(1000)]
        begin = time.monotonic()
        while sum(stream.done() for stream in streams) < 980:
            assert time.monotonic() - begin < 30
            await asyncio.sleep(0.05)
        ended = [stream for stream in streams if stream.done()]
        assert {await stream.code() for stream in ended} == {EXHAUSTED}
        assert len(ended) == 980
        begin = time.monotonic()
        for _ in range(20):
            await asyncio.to_thread(search, searching)
        assert time.monotonic() - begin < 5
        for stream in streams:
            stream.cancel()


@pytest.mark.parametrize("messages", [(), (START,)], ids=["a header alone", "a start and nothing more"])
def test_a_stream_on_which_nothing_moves_is_ended(start: Started, messages: tuple[pb.IngestRequest, ...]) -> None:
    channel = start(stream_start_seconds=0.3, stream_idle_seconds=0.3)
    stream = OpenStream(channel, *messages)
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(stream.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert 0.2 < time.monotonic() - begin < 5
    stream.close()


def test_a_client_that_never_reads_its_acks_costs_little_and_is_ended(start: Started) -> None:
    searching = start(stream_idle_seconds=2.0, max_ingest_streams=1)
    sent = 0

    def requests() -> Iterator[pb.IngestRequest]:
        nonlocal sent
        yield START
        for number in range(100):
            ids = [f"{number * 500 + i}".ljust(500, "x") for i in range(500)]
            yield pb.IngestRequest(
                batch=pb.IngestBatch(
                    operations=[
                        pb.IngestOperation(position=number * 500 + i, upsert=document_pb2.Document(id=id, text="owl"))
                        for i, id in enumerate(ids, start=1)
                    ]
                )
            )
            sent += 1

    with grpc.insecure_channel(start.target) as channel:
        call = pb_grpc.DocumentServiceStub(channel).Ingest(requests())
        search(searching)
        before = psutil.Process().memory_info().rss

        def stands_still() -> bool:
            known = sent
            time.sleep(0.5)
            return 0 < known == sent

        until(stands_still)
        search(searching)
        assert 0 < sent < 100, "the server reads on though nobody takes its acks"
        assert psutil.Process().memory_info().rss - before < 64 * 2**20
        # Its place is free again after a while.
        until(lambda: gets_in(searching))
        with pytest.raises(grpc.RpcError) as caught:
            for response in call:
                assert response.HasField("started") or response.HasField("acks") or response.HasField("credit")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_that_reads_slowly_gets_every_ack(start: Started) -> None:
    start(stream_idle_seconds=1.0)
    documents = [Document(id=f"{number}".ljust(400, "x"), text="owl") for number in range(3000)]
    with Client(start.target) as client:
        for number, ack in enumerate(client.ingest("docs", documents)):
            assert ack.ok
            if number % 500 == 0:
                time.sleep(0.5)  # A slow reader.
        assert client.count("docs") == len(documents) + 1


def test_one_caller_has_no_more_streams_than_allowed_and_another_still_gets_in(tmp_path: Path) -> None:
    keys = [new_key(name, Scope) for name in ("one", "two")]
    one, two = [(("authorization", f"Bearer {secret}"),) for secret, _ in keys]
    settings = {"api_keys": tuple(key.entry() for _, key in keys), "max_ingest_streams_per_caller": 2}
    with server(data_dir=tmp_path, **settings) as running, grpc.insecure_channel(running.target) as channel:
        with Client(running.target, api_key=keys[0][0]) as client:
            client.create_collection("docs")
        streams = [OpenStream(channel, START, metadata=one) for _ in range(2)]
        assert all(next(stream.call).HasField("started") for stream in streams)
        stub = pb_grpc.DocumentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Ingest(iter([START]), metadata=one, timeout=10))
        assert refusal(caught.value)[0] == "max_ingest_streams_per_caller"
        assert list(stub.Ingest(iter([START]), metadata=two, timeout=10))
        for stream in streams:
            stream.close()


def test_a_caller_that_calls_too_often_is_told_when_to_come_again(start: Started) -> None:
    channel = start(max_requests_per_second=5.0)
    stub = pb_grpc.DocumentServiceStub(channel)
    errors = []
    for _ in range(20):
        try:
            stub.Count(pb.CountRequest(collection="docs"), timeout=5)
        except grpc.RpcError as error:
            errors.append(error)
    assert len(errors) >= 10
    setting, seconds = refusal(errors[0])
    assert setting == "max_requests_per_second"
    assert 0 < seconds <= 0.2

    def is_served() -> bool:
        try:
            return bool(stub.Count(pb.CountRequest(collection="docs"), timeout=5).count == 1)
        except grpc.RpcError:
            return False

    # A refused call takes nothing of what comes in the meantime.
    until(is_served, 2)


def test_the_server_caps_a_deadline(start: Started) -> None:
    channel = start(max_deadline_seconds=0.3)
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        search_service_pb2_grpc.SearchServiceStub(channel).Search(waiting_search(), timeout=20)
    assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.FAILED_PRECONDITION)
    assert time.monotonic() - begin < 5


# --------------------------------------------------------------------------------------------------------------- leave


def test_a_stop_says_not_serving_first_and_lets_calls_in_until_the_delay_is_over(tmp_path: Path) -> None:
    running = TestServer(tmp_path, drain_delay_seconds=1.0)
    running.start()
    with Client(running.target) as client, grpc.insecure_channel(running.target) as channel:
        client.create_collection("docs")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert client.count("docs") == 0
        begin = time.monotonic()
        stopping.join(20)
        assert time.monotonic() - begin < 5, "an open watch must not hold up a stop"


def test_a_stop_under_load_fails_no_search_that_had_begun_and_tells_streams_to_resume(tmp_path: Path) -> None:
    running = TestServer(tmp_path)
    running.start()
    with Client(running.target) as client:
        client.create_collection("docs")
        client.ingest("docs", [Document(id=f"d{i}", text=f"owl number {i}") for i in range(200)]).finish()
    codes: list[grpc.StatusCode | None] = []
    over = threading.Event()

    def keep_searching() -> None:
        # Goes on after a refusal, at once: there is a call on its way at every moment of the stop.
        with grpc.insecure_channel(running.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            while not over.is_set():
                try:
                    search(channel)
                    codes.append(None)
                except grpc.RpcError as error:
                    codes.append(error.code())

    with ThreadPoolExecutor(8) as pool, grpc.insecure_channel(running.target) as channel:
        stream = OpenStream(channel, START)
        assert next(stream.call).HasField("started")
        for _ in range(8):
            pool.submit(keep_searching)
        until(lambda: len(codes) > 50)
        running.stop(10.0)
        over.set()
        assert next(stream.call).HasField("draining")
        assert list(stream.call) == []
        stream.close()
    # Neither cancelled nor failed: what the server does not answer is UNAVAILABLE, which clients repeat elsewhere.
    assert set(codes) == {None, grpc.StatusCode.UNAVAILABLE}


def test_an_answer_larger_than_a_message_is_refused_with_what_to_do() -> None:
    with server(max_message_bytes=100_000) as running, Client(running.target) as client:
        client.create_collection("a", CollectionConfig(embedder="none", dimension=1))
        client.ingest("a", [Document(id=str(i), text="x" * 30_000, vector=[1.0]) for i in range(5)]).finish()
        ids = [str(i) for i in range(5)]
        query = SearchQuery(collection="a", vector=[1.0], limit=2)
        for call in (
            lambda: client.get("a", ids),
            lambda: client.search("a", vector=[1.0]),
            lambda: client.batch_search([query, query]),
        ):
            with pytest.raises(InvalidArgument, match="fewer documents") as caught:
                call()
            assert caught.value.metadata == {"setting": "max_message_bytes", "limit": "100000"}
            assert not caught.value.retryable
        assert len(client.get("a", ids, include=Include(text=False))) == 5
        assert [document.id for document in client.list("a")] == ids
