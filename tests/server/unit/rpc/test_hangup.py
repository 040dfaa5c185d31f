"""Closing the port and the connections of a gRPC server, on every kind of address."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from shortlist_server.rpc.hangup import hang_up


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:0", "0.0.0.0:0", "[::]:0", "unix:{folder}/socket"])
async def test_a_call_under_way_and_later_ones_end_as_unavailable_and_the_port_is_free(
    listen: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listen = listen.format(folder=tmp_path)
    begun = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    handler = grpc.method_handlers_generic_handler("test", {"wait": grpc.unary_unary_rpc_method_handler(wait)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(listen)
    await server.start()
    target = listen if listen.startswith("unix:") else f"localhost:{port}"
    async with grpc.aio.insecure_channel(target) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test/wait")
        call = method(b"")
        await begun.wait()
        await hang_up(listen, port)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await method(b"", timeout=5).code() is grpc.StatusCode.UNAVAILABLE
    await server.stop(None)
    again = grpc.aio.server()
    assert again.add_insecure_port(target) == port
    await again.stop(None)
    assert capfd.readouterr().err == ""


async def test_other_servers_keep_their_connections() -> None:
    servers = [grpc.aio.server() for _ in range(2)]
    ports = [server.add_insecure_port("127.0.0.1:0") for server in servers]
    for server in servers:
        await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/b")
        assert await method(b"").code() is grpc.StatusCode.UNIMPLEMENTED
        connected = channel.get_state()
        await hang_up("127.0.0.1:0", ports[0])
        assert await method(b"").code() is grpc.StatusCode.UNIMPLEMENTED
        assert connected is channel.get_state() is grpc.ChannelConnectivity.READY
    for server in servers:
        await server.stop(None)
