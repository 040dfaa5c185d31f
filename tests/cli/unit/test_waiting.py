"""A command that follows its operation: what it says when the wait fails, and how long it waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from shortlist import Client, Operation, PermissionDenied
from shortlist.v1 import operation_pb2, operation_service_pb2
from shortlist_cli.commands.waiting import follow


class Refusing(grpc.GenericRpcHandler):
    """Knows one operation, for which nobody may wait."""

    def __init__(self) -> None:
        self.left_seconds: list[float] = []

    def service(self, details: Any) -> Any:
        def get(request: bytes, context: grpc.ServicerContext) -> bytes:
            found = operation_pb2.Operation(name="operations/x", kind=operation_pb2.OPERATION_KIND_BACKUP)
            return operation_service_pb2.GetOperationResponse(operation=found).SerializeToString()

        def wait(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            self.left_seconds.append(context.time_remaining())
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
            yield b""

        if details.method.endswith("WaitOperation"):
            return grpc.unary_stream_rpc_method_handler(wait)
        return grpc.unary_unary_rpc_method_handler(get)


def test_a_wait_that_fails_names_the_operation_and_has_only_the_time_that_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    refusing = Refusing()
    bare = grpc.server(ThreadPoolExecutor(2), handlers=[refusing])
    port = bare.add_insecure_port("127.0.0.1:0")
    bare.start()
    with Client(f"127.0.0.1:{port}") as client:

        def start() -> Operation:
            time.sleep(1)
            return client.get_operation("operations/x")

        with pytest.raises(PermissionDenied):
            follow(client, start, detach=False, as_json=False, progress=lambda _: None, timeout_seconds=20)
    bare.stop(None).wait()
    assert capsys.readouterr().err == (
        "the backup (operations/x) goes on; follow it with 'shortlist operations wait operations/x'\n"
    )
    assert refusing.left_seconds[0] < 19.5
