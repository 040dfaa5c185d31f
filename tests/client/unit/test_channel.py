"""What goes over the wire besides the messages: keys, deadlines, retries, encryption; against a bare gRPC server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

import shortlist
from shortlist import Client, Tls
from shortlist.v1 import document_service_pb2
from shortlist.v1.collection_service_pb2 import CreateCollectionRequest


class Bare(grpc.GenericRpcHandler):
    """Answers every call with an empty message, after failing ``failures`` times."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], float | None]] = []
        self.requests: list[bytes] = []
        self.failures = 0

    def service(self, details: Any) -> Any:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.requests.append(request)
            self.calls.append((details.method, dict(context.invocation_metadata()), context.time_remaining()))
            if self.failures:
                self.failures -= 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
            return document_service_pb2.CountResponse(count=3).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def bare() -> Bare:
    return Bare()


@pytest.fixture
def target(bare: Bare) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[bare])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_the_api_key_goes_with_every_call(bare: Bare, target: str) -> None:
    with Client(target, api_key="secret") as client:
        client.count("books")
        client.ready()
    assert [metadata["authorization"] for _, metadata, _ in bare.calls] == ["Bearer secret"] * 2


def test_without_a_key_none_is_sent(bare: Bare, target: str) -> None:
    with Client(target) as client:
        client.count("books")
    assert "authorization" not in bare.calls[0][1]


def test_every_call_has_a_deadline(bare: Bare, target: str) -> None:
    with Client(target, timeout_seconds=7) as client:
        client.count("books")
        client.count("books", timeout_seconds=3)
    first, second = (left for _, _, left in bare.calls)
    assert first is not None and 3.5 < first < 8
    assert second is not None and second < 3.5


def test_calls_that_take_as_long_as_they_need_have_a_deadline_only_when_it_is_given(bare: Bare, target: str) -> None:
    with Client(target, timeout_seconds=7) as client:
        client.retry_dead_letters("books", [1])
        for seconds in (None, 3):
            with pytest.raises(shortlist.InternalError, match="before the operation"):
                client.wait_operation("operations/x", timeout_seconds=seconds)
        client.list_dead_letters("books").pages().__next__()
    retried, waited, given, listed = (left for _, _, left in bare.calls)
    assert all(left is None or left > 1e6 for left in (waited, retried))
    assert given is not None and given < 3.5
    assert listed is not None and listed < 8


def far_away(target: str, delay_seconds: float) -> str:
    """The address of a way to the target on which every packet is late."""
    port = int(target.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(delay_seconds)
                sink.sendall(data)

    def carry() -> None:
        with listener, listener.accept()[0] as near, socket.create_connection(("127.0.0.1", port)) as far:
            there = threading.Thread(target=pass_on, args=(near, far))
            there.start()
            pass_on(far, near)
            there.join()

    threading.Thread(target=carry, daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_is_far_away_is_reached_at_once(target: str) -> None:
    with Client(far_away(target, 0.2)) as client:
        client.delete_collection("books")


def test_idempotent_calls_are_repeated_while_the_server_is_unavailable(bare: Bare, target: str) -> None:
    bare.failures = 2
    with Client(target) as client:
        assert client.count("books") == 3
    assert len(bare.calls) == 3


def test_a_call_that_is_repeated_carries_the_same_request_id_and_another_call_another(bare: Bare, target: str) -> None:
    bare.failures = 2
    with Client(target) as client:
        client.create_collection("books")
        client.create_collection("books")
    ids = [CreateCollectionRequest.FromString(request).request_id for request in bare.requests]
    assert len(bare.calls) == 4
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert all(len(id) == 36 for id in ids)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for "search.test" and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs the openssl program")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "cert.pem", folder / "key.pem"
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=search.test"]
    command += ["-addext", "subjectAltName=DNS:search.test", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True)
    return paths


def test_tls_trusts_the_given_authority_and_nobody_else(bare: Bare, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    server = grpc.server(ThreadPoolExecutor(2), handlers=[bare])
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        with Client(target, tls=Tls(ca=cert, server_name="search.test"), api_key="secret") as client:
            assert client.count("books") == 3
        with Client(target, tls=True) as stranger, pytest.raises(shortlist.ServerUnavailable):
            stranger.count("books", timeout_seconds=5)
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    "settings",
    [
        {"target": ""},
        {"timeout_seconds": 0},
        {"api_key": "read-from-a-file\n"},
        {"api_key": "schlüssel"},
        {"tls": True, "credentials": grpc.ssl_channel_credentials()},
        {"tls": Tls(certificate="only.pem")},
        {"tls": Tls(ca=__file__)},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(shortlist.InvalidArgument):
        Client(**settings)
