"""The health service, and callers who are gone before their answer."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shortlist import Client, Document
from shortlist.v1 import document_service_pb2
from shortlist_server.testing import server

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def channel(target: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as channel:
        yield channel


def test_the_list_has_every_service_and_the_server_itself(channel: grpc.Channel) -> None:
    listed = health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest(), timeout=5)
    services = ("Search", "Document", "Collection", "Admin", "Operation")
    names = ["", *(f"shortlist.v1.{name}Service" for name in services)]
    assert {name: response.status for name, response in listed.statuses.items()} == dict.fromkeys(names, SERVING)


@pytest.mark.parametrize("method", ["Check", "List", "Watch"])
def test_bytes_that_are_no_message_are_an_invalid_argument(
    channel: grpc.Channel, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/grpc.health.v1.Health/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        list(call(b"\xff\xff\xff", timeout=5))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="none"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# ---------------------------------------------------------------------------------------------- gone before the answer


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call(stream: int, path: str, message: bytes) -> bytes:
    """A whole call: a HEADERS frame of literal fields (RFC 7541, section 6.2.2), and its message."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers"}
    fields["content-type"] = "application/grpc"
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return frame(1, 4, stream, block) + frame(0, 1, stream, b"\0" + struct.pack(">I", len(message)) + message)


def until_headers(raw: socket.socket, count: int) -> None:
    """Reads frames until so many have been HEADERS."""
    with raw.makefile("rb") as incoming:
        while count:
            head = incoming.read(9)
            incoming.read(int.from_bytes(head[:3]))
            count -= head[3] == 1


def test_a_caller_that_takes_no_answer_and_is_gone_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    listing = document_service_pb2.ListRequest(collection="docs").SerializeToString()
    paths = {
        "/grpc.health.v1.Health/Check": b"",
        "/grpc.health.v1.Health/List": b"",
        "/grpc.health.v1.Health/Watch": b"",
        "/shortlist.v1.DocumentService/List": listing,
    }
    with server() as running, Client(running.target) as client:
        client.create_collection("docs")
        client.ingest("docs", [Document(id=str(i), text="owl") for i in range(10)]).finish()
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", int(running.target.rpartition(":")[2]))) as raw:
                # SETTINGS_INITIAL_WINDOW_SIZE 0: no answer fits into what the server may send.
                raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, 0)))
                for number, (path, message) in enumerate(paths.items()):
                    raw.sendall(call(2 * number + 1, path, message))
                # Headers of every call come back: the answers are ready, and waiting for room.
                raw.settimeout(10)
                until_headers(raw, len(paths))
        assert client.count("docs") == 10
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
