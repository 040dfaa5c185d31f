"""Wraps code around the methods of a service; every interceptor of this package is made of it.

``wrap`` takes a method's handler and returns one whose behaviour has passed through a function. Where a method has one
request, what is wrapped around it takes an ``Exchange`` in its place. Coroutines on the server's event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from shortlist_server.rpc.exchange import Exchange

if TYPE_CHECKING:  # gRPC's classes take type parameters in their stubs only
    Handler = grpc.RpcMethodHandler[Any, Any]
    Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]
    Context = grpc.aio.ServicerContext[Any, Any]

Behaviour = Callable[..., Any]
Unary = Callable[[Any, "Context"], Awaitable[Any]]
Streaming = Callable[[Any, "Context"], AsyncIterator[Any]]

HEALTH = "/grpc.health.v1.Health/"
"""How the methods of the health service begin. They pass all interceptors untouched: a probe has no key, and must not
take an overloaded server for a dead one."""


class WrappingInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that wraps each method once, because the served methods never change.

    gRPC asks the first interceptor anew for every call, and it the next; the first that knows the method answers.
    """

    def __init__(self) -> None:
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """The method's wrapped handler; None for a method that nobody serves."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(HEALTH):
            return handler
        known = self._wrapped[method] = self.wrapped(method, handler)
        return known

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """The handler of a method, wrapped by this interceptor."""
        raise NotImplementedError


def wrap(
    handler: Handler,
    *,
    unary: Callable[[Behaviour], Unary],
    streaming: Callable[[Behaviour], Streaming],
) -> Handler:
    """The handler with its behaviour wrapped.

    Args:
        handler: of a method. A client-streaming method with one response is refused: the contract has none.
        unary: wraps the behaviour of a method with one response, which takes an exchange and a context.
        streaming: wraps the behaviour of a method with a stream of responses, which takes an exchange, or an iterator
            where there are more requests than one.
    """
    inner = exchanging(handler)
    if handler.unary_unary is not None:
        make, behaviour = grpc.unary_unary_rpc_method_handler, unary(inner)
    elif handler.unary_stream is not None:
        make, behaviour = grpc.unary_stream_rpc_method_handler, streaming(inner)  # type: ignore[assignment]
    else:
        make, behaviour = grpc.stream_stream_rpc_method_handler, streaming(inner)  # type: ignore[assignment]
    behaviour.exchanging = True  # type: ignore[attr-defined]
    return make(
        behaviour, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


def exchanging(handler: Handler) -> Behaviour:
    """The behaviour of a method such that it takes an exchange where there is one request.

    Raises:
        NotImplementedError: the method has a stream of requests and one response.
    """
    behaviour: Behaviour | None = handler.unary_unary or handler.unary_stream or handler.stream_stream
    if behaviour is None:
        raise NotImplementedError("methods with a stream of requests and one response are not wrapped")
    if handler.request_streaming or getattr(behaviour, "exchanging", False):
        return behaviour
    taking: Behaviour = behaviour
    if handler.response_streaming:

        async def stream(exchange: Exchange, context: Context) -> AsyncIterator[Any]:
            async with aclosing(taking(await exchange.request(), context)) as responses:
                async for response in responses:
                    yield response

        return stream

    async def call(exchange: Exchange, context: Context) -> Any:
        return await taking(await exchange.request(), context)

    return call
