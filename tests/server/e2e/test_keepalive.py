"""A connection on which nothing happens for long is kept by pings, and no line of the transport's log is seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import Client, Document, InvalidArgument, _channel
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.rpc import transport
from shortlist_server.testing import server

REFUSED_PORT = """
import os
before = dict(os.environ)
import shortlist, grpc
from concurrent.futures import ThreadPoolExecutor
assert dict(os.environ) == before
try:
    grpc.server(ThreadPoolExecutor(1)).add_insecure_port("203.0.113.1:1")
except RuntimeError:
    print("refused")
"""
"""Makes the transport report an error: no machine has an address that is kept for documentation."""


def test_a_server_takes_its_clients_pings_however_long_an_ingest_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # gRPC sends a ping a second at most, and the fourth is the third that may be too early.
    monkeypatch.setattr(_channel, "KEEPALIVE_SECONDS", 1.0)
    monkeypatch.setattr(transport, "MIN_PING_SECONDS", 0.05, raising=False)

    def source() -> Iterator[Document]:
        yield Document(id="a", text="owl")
        time.sleep(5.5)  # Quiet for long enough that a refusal of pings would end the connection.
        yield Document(id="b", text="owl")

    with server(data_dir=tmp_path) as running, Client(running.target) as client:
        client.create_collection("docs")
        summary = client.ingest("docs", source()).finish()
    assert (summary.durable, summary.reconnects) == (2, 0)


@pytest.mark.parametrize("verbosity", [None, "error"])
def test_the_transports_own_log_is_seen_only_where_it_was_asked_for(verbosity: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    if verbosity is not None:
        environment["GRPC_VERBOSITY"] = verbosity
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_PORT], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "refused\n"
    assert (done.stderr != "") is (verbosity is not None), done.stderr


def test_a_debug_log_has_the_details_of_the_server_and_of_no_library(tmp_path: Path) -> None:
    arguments = ["--embedder", "hashing", "--log-level", "debug"]
    running = ServerProcess(tmp_path / "data", arguments=arguments, log_path=tmp_path / "log")
    try:
        with Client(running.target) as client:
            client.create_collection("docs")
            client.ingest("docs", [Document(id="a", text="owl")]).finish()
            with pytest.raises(InvalidArgument):
                client.search("docs", "owl", limit=-1)
    finally:
        running.stop()
    details = [line for line in (tmp_path / "log").read_text().splitlines() if " DEBUG " in line]
    assert any("refused" in line for line in details)
    assert [line for line in details if " shortlist_server." not in line] == []
