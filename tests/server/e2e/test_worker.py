"""Models on other machines: a server with workers, and what happens when one is killed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from shortlist import Client, Document, ShortlistError
from shortlist.worker.v1 import worker_service_pb2, worker_service_pb2_grpc
from shortlist_cli.hosting.server_process import ServerNotStarted, ServerProcess

MODEL = ["--embedder", "hashing"]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    started = []
    try:
        for i in range(2):
            started.append(ServerProcess(tmp_path / f"worker{i}", arguments=MODEL, command="worker"))
        yield started
    finally:
        for worker in started:
            worker.stop()


def serve(folder: Path, workers: list[ServerProcess]) -> ServerProcess:
    named = [argument for worker in workers for argument in ("--worker", worker.target)]
    return ServerProcess(folder / "data", arguments=[*MODEL, *named], log_path=folder / "log")


def test_a_server_with_workers_answers_as_one_with_its_own_models(tmp_path: Path, workers: list[ServerProcess]) -> None:
    documents = [Document(id=f"d{i}", text=f"text number {i} of the collection") for i in range(40)]
    answers = []
    for folder, chosen in ((tmp_path / "remote", workers), (tmp_path / "local", [])):
        folder.mkdir()
        server = serve(folder, chosen)
        try:
            with Client(server.target) as client:
                client.create_collection("docs")
                client.ingest("docs", documents).finish()
                answers.append([(hit.id, round(hit.score, 5)) for hit in client.search("docs", "text number 7")])
        finally:
            server.stop()
    assert answers[0] == answers[1]
    assert answers[0][0][0] == "d7"


def test_when_a_worker_is_killed_no_caller_hangs_and_the_other_takes_over(
    tmp_path: Path, workers: list[ServerProcess]
) -> None:
    server = serve(tmp_path, workers)
    outcomes: list[str] = []
    try:
        with Client(server.target, timeout_seconds=10) as client:
            client.create_collection("docs")
            client.ingest("docs", [Document(id=f"d{i}", text=f"text {i}") for i in range(20)]).finish()

            def search(caller: int) -> None:
                for i in range(30):
                    try:
                        client.search("docs", f"question {caller} {i}")
                        outcomes.append("answered")
                    except ShortlistError as error:
                        outcomes.append(type(error).__name__)

            callers = [threading.Thread(target=search, args=(i,)) for i in range(4)]
            for caller in callers:
                caller.start()
            end = time.monotonic() + 30
            while len(outcomes) < 10 and time.monotonic() < end:
                time.sleep(0.001)
            workers[0].process.kill()
            for caller in callers:
                caller.join(60)
                assert not caller.is_alive()
            assert client.search("docs", "text 3 after all").hits[0].id == "d3"
    finally:
        server.stop()
    assert len(outcomes) == 120
    assert outcomes.count("answered") >= 110
    assert set(outcomes) <= {"answered", "Unavailable", "ServerUnavailable", "DeadlineExceeded"}


def test_a_server_whose_workers_are_not_there_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ServerNotStarted) as caught:
        ServerProcess(tmp_path / "data", arguments=[*MODEL, "--worker", "127.0.0.1:1"], start_seconds=60)
    assert "127.0.0.1:1" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_worker_that_is_stopped_cancels_no_call(workers: list[ServerProcess]) -> None:
    codes: list[grpc.StatusCode | None] = []
    over = threading.Event()

    def keep_calling() -> None:
        with grpc.insecure_channel(workers[0].target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
            while not over.is_set():
                try:
                    stub.Describe(worker_service_pb2.DescribeRequest(), timeout=10)
                    codes.append(None)
                except grpc.RpcError as error:
                    codes.append(error.code())

    with ThreadPoolExecutor(6) as pool:
        for _ in range(6):
            pool.submit(keep_calling)
        end = time.monotonic() + 30
        while len(codes) < 50 and time.monotonic() < end:
            time.sleep(0.01)
        workers[0].process.send_signal(signal.SIGTERM)
        assert workers[0].process.wait(30) == 0
        over.set()
    assert set(codes) == {None, grpc.StatusCode.UNAVAILABLE}
