"""SIGTERM at a server at work: nothing acknowledged is lost, nothing begun fails, and a second one is obeyed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist import Ack, AckStatus, Client, Document, ShortlistError
from shortlist import _errors as errors
from shortlist_cli.hosting.server_process import ServerProcess

pytestmark = pytest.mark.crash

HASHING = ["--embedder", "hashing"]


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def documents(count: int) -> list[Document]:
    return [Document(id=f"d{i}", text=f"owl number {i} in the forest") for i in range(count)]


def test_sigterm_under_load_loses_no_acknowledged_document_and_fails_no_search(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", arguments=HASHING, log_path=tmp_path / "log")
    acks: list[Ack] = []
    searches = 0
    failures: list[ShortlistError] = []
    stopped = threading.Event()

    def ingest(client: Client) -> None:
        with contextlib.suppress(errors.IngestInterrupted):
            for ack in client.ingest("docs", documents(50_000), reconnect_seconds=1.0):
                acks.append(ack)

    def search(client: Client) -> None:
        nonlocal searches
        while not stopped.is_set():
            try:
                client.search("docs", "owl in the forest")
                searches += 1
            except (errors.Unavailable, errors.DeadlineExceeded):
                return
            except ShortlistError as error:
                failures.append(error)
                return

    with Client(server.target, timeout_seconds=5) as client:
        client.create_collection("docs")
        client.ingest("docs", documents(100)).finish()
        threads = [threading.Thread(target=ingest, args=(client,))]
        threads += [threading.Thread(target=search, args=(client,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: len(acks) > 500 and searches > 50)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert time.monotonic() - begin < 15
        stopped.set()
        for thread in threads:
            thread.join(30)
    server.kill()
    assert failures == []
    assert "Traceback" not in (tmp_path / "log").read_text()
    durable = [ack.id for ack in acks if ack.status is AckStatus.DURABLE]
    assert durable
    again = ServerProcess(tmp_path / "data", arguments=HASHING, log_path=tmp_path / "log")
    try:
        with Client(again.target) as client:
            for start in range(0, len(durable), 1000):
                assert None not in client.get("docs", durable[start : start + 1000])
    finally:
        again.stop()


def test_a_second_sigterm_ends_the_server_at_once(tmp_path: Path) -> None:
    arguments = [*HASHING, "--drain-delay-seconds", "60"]
    server = ServerProcess(tmp_path / "data", arguments=arguments, log_path=tmp_path / "log")
    server.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping" in (tmp_path / "log").read_text())
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(2) == 1
    server.kill()
