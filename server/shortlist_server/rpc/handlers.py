"""Putting code around the methods of a service: what every interceptor of this package is made of.

``wrap`` takes a method's handler and returns one whose behaviour has passed through a function; how requests are read
and responses written stays as it was, unless told. Coroutines on the server's event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

if TYPE_CHECKING:  # gRPC's classes take type parameters in their stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]
    Context = grpc.aio.ServicerContext[Any, Any]

Behaviour = Callable[..., Any]
Unary = Callable[[Any, "Context"], Awaitable[Any]]
Streaming = Callable[[Any, "Context"], AsyncIterator[Any]]
Writing = Callable[[Any, "Context"], Awaitable[None]]
Deserializer = Callable[[bytes], Any]

HEALTH = "/grpc.health.v1.Health/"
"""What the methods of the health service begin with. They pass all interceptors untouched: a probe has no key, and an
overloaded server must not be taken for a dead one."""


class WrappingInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that wraps each method once. gRPC asks interceptors anew for every call."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """The method's wrapped handler; None for a method that nobody serves."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(HEALTH):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self.wrapped(method, handler))
        return known[1]

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """The handler of a method, with what this interceptor puts around it."""
        raise NotImplementedError


def wrap(
    handler: Handler,
    *,
    unary: Callable[[Behaviour], Unary],
    streaming: Callable[[Behaviour], Streaming | Writing],
    deserializer: Callable[[Deserializer], Deserializer] = lambda deserializer: deserializer,
) -> Handler:
    """The handler with its behaviour wrapped.

    Args:
        handler: of a method. A client-streaming method with one response is refused: the contract has none.
        unary: wraps the behaviour of a method with one response.
        streaming: wraps the behaviour of a method with a stream of responses, an asynchronous generator, into another
            or, where no interceptor stands before this one, into a coroutine that writes the responses itself.
        deserializer: wraps what reads requests.
    """
    if handler.unary_unary is not None:
        make, behaviour = grpc.unary_unary_rpc_method_handler, unary(handler.unary_unary)
    elif handler.unary_stream is not None:
        make, behaviour = grpc.unary_stream_rpc_method_handler, streaming(handler.unary_stream)  # type: ignore[assignment]
    elif handler.stream_stream is not None:
        make, behaviour = grpc.stream_stream_rpc_method_handler, streaming(handler.stream_stream)  # type: ignore[assignment]
    else:
        raise NotImplementedError("methods with a stream of requests and one response are not wrapped")
    read = handler.request_deserializer
    return make(
        behaviour,
        request_deserializer=None if read is None else deserializer(read),
        response_serializer=handler.response_serializer,
    )
