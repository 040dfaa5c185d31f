"""Waiting for an operation of a server that refuses, breaks or goes on: what ends the wait, and what the operation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

import shortlist
from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import operation_pb2, operation_service_pb2

Wait = Callable[[grpc.ServicerContext], None]


def operation(state: operation_pb2.OperationState.ValueType) -> operation_pb2.Operation:
    return operation_pb2.Operation(
        name="operations/x",
        state=state,
        verify_progress=operation_pb2.VerifyProgress(collection="notes"),
        verify_result=operation_pb2.VerifyResult() if state == operation_pb2.OPERATION_STATE_SUCCEEDED else None,
    )


class Scripted(grpc.GenericRpcHandler):
    """Starts an operation. Each wait shows it running and does the next thing; when none is left, it succeeds."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []
        self.methods: list[str] = []

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        running = operation(operation_pb2.OPERATION_STATE_RUNNING)
        ended = operation(operation_pb2.OPERATION_STATE_SUCCEEDED)

        def start(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.methods.append(method)
            kind = pb.VerifyResponse if method == "Verify" else operation_service_pb2.CancelOperationResponse
            return kind(operation=ended if method == "CancelOperation" else running).SerializeToString()

        def wait(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            self.methods.append(method)
            yield operation_service_pb2.WaitOperationResponse(operation=running).SerializeToString()
            if self.waits:
                self.waits.pop(0)(context)
            yield operation_service_pb2.WaitOperationResponse(operation=ended).SerializeToString()

        if method == "WaitOperation":
            return grpc.unary_stream_rpc_method_handler(wait)
        return grpc.unary_unary_rpc_method_handler(start)


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def at(scripted: Scripted) -> Iterator[str]:
    """The address of the server."""
    bare = grpc.server(ThreadPoolExecutor(4), handlers=[scripted])
    port = bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    yield f"127.0.0.1:{port}"
    bare.stop(None).wait()


def overloaded(context: grpc.ServicerContext) -> None:
    status = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="busy")
    for detail in (
        error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="shortlist"),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=10_000_000)),
    ):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")


def broken(code: grpc.StatusCode) -> Wait:
    return lambda context: context.abort(code, "Received RST_STREAM with error code 2")


@pytest.mark.parametrize(
    "wait",
    [overloaded, *map(broken, (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED))],
    ids=["overloaded", "internal", "unknown", "cancelled"],
)
async def test_a_busy_server_and_a_broken_connection_are_waited_out(
    connect: Any, scripted: Scripted, at: str, wait: Wait
) -> None:
    scripted.waits += [wait, wait]
    assert await connect(at).verify() == []
    assert scripted.methods == ["Verify"] + 3 * ["WaitOperation"]


async def test_an_error_of_the_server_ends_the_wait_and_not_the_operation(
    connect: Any, scripted: Scripted, at: str
) -> None:
    scripted.waits.append(broken(grpc.StatusCode.PERMISSION_DENIED))
    with pytest.raises(shortlist.PermissionDenied):
        await connect(at).verify()
    assert scripted.methods == ["Verify", "WaitOperation"]


@pytest.mark.parametrize("error", [shortlist.Unavailable("mine"), grpc.RpcError("mine")])
async def test_what_progress_raises_is_never_taken_for_the_servers_error(
    connect: Any, scripted: Scripted, at: str, error: Exception
) -> None:
    def fail(_: object) -> None:
        raise error

    with pytest.raises(type(error), match="mine"):
        await connect(at).verify(progress=fail)
    assert scripted.methods == ["Verify", "WaitOperation", "CancelOperation"]


async def test_a_busy_server_is_not_asked_beyond_the_deadline(connect: Any, scripted: Scripted, at: str) -> None:
    scripted.waits += 1000 * [overloaded]
    with pytest.raises(shortlist.DeadlineExceeded):
        await connect(at).verify(timeout_seconds=0.5)
    assert scripted.methods[-1] == "CancelOperation"


async def test_closing_a_client_ends_its_waits_with_one_error(connect: Any, scripted: Scripted, at: str) -> None:
    begun, end = threading.Event(), threading.Event()

    def hold(_: grpc.ServicerContext) -> None:
        begun.set()
        end.wait(30)

    scripted.waits.append(hold)
    client = connect(at)
    waiting = asyncio.create_task(client.wait_operation("operations/x"))
    try:
        assert await asyncio.to_thread(begun.wait, 30)
        await client.close()
        with pytest.raises(shortlist.ClientClosed):
            await waiting
    finally:
        end.set()
