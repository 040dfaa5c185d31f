"""What becomes of a stream whose client goes away, or takes nothing, while it is written to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from shortlist_server.observe.metrics import Metrics
from shortlist_server.observe.observer import Observer
from shortlist_server.rpc import interceptors
from shortlist_server.rpc.interceptors import CallInterceptor


class Client:
    """gRPC's side of a call whose client is gone, or takes neither message nor status."""

    def __init__(self, *, gone: bool) -> None:
        self._gone = gone

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def read(self) -> bytes:
        return b"request"

    async def write(self, message: Any) -> None:
        if self._gone:
            raise grpc.aio.InternalError("Failed to send a message")
        await asyncio.Event().wait()

    async def abort(self, *status: Any) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("gone", "code"), [(True, "CANCELLED"), (False, "UNAVAILABLE")])
async def test_a_client_that_is_gone_or_stuck_is_no_fault_and_leaves_no_call_behind(
    gone: bool, code: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "STATUS_SECONDS", 0.05)
    ended = []

    async def endless(request: Any, context: Any) -> AsyncIterator[str]:
        try:
            while True:
                yield "message"
        finally:
            ended.append(request)

    metrics = Metrics()
    observer = Observer(metrics=metrics)
    calls = CallInterceptor(max_concurrent=1, max_seconds=60, max_write_seconds=0.05, observer=observer)
    handler: Any = grpc.unary_stream_rpc_method_handler(endless)
    wrapped = calls.wrapped("/test", handler).stream_stream
    assert wrapped is not None
    call: Callable[..., Any] = wrapped
    returned, sent = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        # As gRPC's own task of a call, which goes on until the status is with the transport.
        try:
            await call(None, Client(gone=gone))
        finally:
            returned.set()
            await sent.wait()

    with caplog.at_level(logging.WARNING):
        task = asyncio.create_task(serve())
        async with asyncio.timeout(10):
            await returned.wait()
    assert ended == [b"request"]
    assert caplog.records == []
    assert metrics.registry.get_sample_value("shortlist_rpc_seconds_count", {"method": "/test", "code": code}) == 1
    draining = asyncio.create_task(calls.drain(5))
    await asyncio.sleep(0)
    assert not draining.done()
    sent.set()
    async with asyncio.timeout(2):
        await draining
        await asyncio.wait({task})
    assert task.cancelled() is gone
