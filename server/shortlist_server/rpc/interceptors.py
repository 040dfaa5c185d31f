"""What every call passes on its way in and out: a limit, a request id, a deadline, and one way for errors to leave.

Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from shortlist_server.domain import Deadline
from shortlist_server.errors import DeadlineExceeded, Overloaded, ShortlistError
from shortlist_server.rpc.status import grpc_status, internal_status

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # gRPC's classes take type parameters in their stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]
    Context = grpc.aio.ServicerContext[Any, Any]

HEALTH = "/grpc.health.v1.Health/"
REQUEST_ID = "x-request-id"
RETRY_AFTER_SECONDS = 0.5


def deadline_of(context: Context, limit_seconds: float) -> Deadline:
    """The caller's deadline, or the server's limit where that is sooner."""
    left = context.time_remaining()
    return Deadline.after(limit_seconds if left is None or math.isinf(left) else min(left, limit_seconds))


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Bounds the calls served at once and turns errors into statuses.

    Health checks are never refused, so that an overloaded server is not taken for a dead one.
    """

    def __init__(self, *, max_concurrent: int, max_seconds: float) -> None:
        self._max_concurrent = max_concurrent
        self._max_seconds = max_seconds
        self._running = 0

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Wraps the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH):
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary, handler_call_details.method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, handler_call_details.method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, handler_call_details.method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return handler

    def _unary(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            request_id = await _identified(context)
            try:
                with _Slot(self):
                    deadline = deadline_of(context, self._max_seconds)
                    async with asyncio.timeout(max(0.0, deadline.left_seconds())):
                        return await behaviour(request, context)
            except TimeoutError:
                await _abort(context, DeadlineExceeded("the deadline passed"), method, request_id)
            except Exception as error:
                await _abort(context, error, method, request_id)

        return call

    def _stream(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            request_id = await _identified(context)
            try:
                with _Slot(self):
                    async for response in behaviour(request, context):
                        yield response
            except Exception as error:
                await _abort(context, error, method, request_id)

        return call

    def enter(self) -> None:
        """Takes a slot for a call, or raises ``Overloaded``."""
        if self._running >= self._max_concurrent:
            raise Overloaded(
                f"{self._running} calls are being served, which is the limit",
                retry_after_seconds=RETRY_AFTER_SECONDS,
                metadata={"limit": str(self._max_concurrent)},
            )
        self._running += 1

    def leave(self) -> None:
        """Gives a slot back."""
        self._running -= 1


class _Slot:
    def __init__(self, interceptor: CallInterceptor) -> None:
        self._interceptor = interceptor

    def __enter__(self) -> None:
        self._interceptor.enter()

    def __exit__(self, *_: object) -> None:
        self._interceptor.leave()


async def _identified(context: Context) -> str:
    """The caller's request id, or a new one; it goes back with the answer."""
    given = dict(context.invocation_metadata() or ()).get(REQUEST_ID, "")
    request_id = given if isinstance(given, str) and 0 < len(given) <= 64 and given.isascii() else secrets.token_hex(8)
    context.set_trailing_metadata(((REQUEST_ID, request_id),))
    return request_id


async def _abort(context: Context, error: Exception, method: str, request_id: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, ShortlistError):
        logger.debug("%s %s refused: %s", request_id, method, error.reason)
        status = grpc_status(error)
    else:
        logger.error("%s %s failed", request_id, method, exc_info=error)
        status = internal_status(request_id)
    metadata = (*(status.trailing_metadata or ()), (REQUEST_ID, request_id))
    await context.abort(status.code, status.details, metadata)
