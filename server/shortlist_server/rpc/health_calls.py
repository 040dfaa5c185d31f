"""Limits the calls of the health service. Its callers need no key; their addresses tell them apart.

A probe must be answered whatever else the server does, so its calls bypass the other interceptors. Coroutines on the
server's event loop.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument
from shortlist_server.rpc.exchange import Exchange
from shortlist_server.rpc.handlers import HEALTH
from shortlist_server.rpc.requests import Arrivals
from shortlist_server.rpc.slots import Slots, caller_of
from shortlist_server.rpc.status import abort, grpc_status, internal_status, is_expected

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Behaviour, Context, Continuation, Handler

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 1024
"""A request names a service, or none."""

MAX_PROBES, MAX_PROBES_OF_ADDRESS = 256, 64
SLOW_PROBES, SLOW_PROBES_OF_ADDRESS = 8, 2
PROBE_SECONDS = 5.0
"""Time for a request to arrive."""

TAKING_SECONDS = 1.0
"""Time for a client to take its answer of two bytes."""

RETRY_SECONDS = 1.0
ADDRESSES_SHARE = 8
"""One address may have this fraction of the watches: one in so many."""


class HealthInterceptor(grpc.aio.ServerInterceptor):
    """Limits the calls of the health service, and passes all others on. Comes before the other interceptors."""

    def __init__(self, config: Config) -> None:
        self._wrapped: dict[str, Handler] = {}
        self._arrivals = Arrivals(PROBE_SECONDS, SLOW_PROBES, SLOW_PROBES_OF_ADDRESS)
        self._probes = Slots(
            "max_health_probes",
            MAX_PROBES,
            "max_health_probes_per_address",
            MAX_PROBES_OF_ADDRESS,
            RETRY_SECONDS,
        )
        self._watches = Slots(
            "max_health_watches",
            config.max_health_watches,
            "max_health_watches_per_address",
            max(1, config.max_health_watches // ADDRESSES_SHARE),
            RETRY_SECONDS,
        )

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """The method's handler, limited if it is one of the health service."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(HEALTH):
            return handler
        known = self._wrapped[method] = self._bounded(method, handler)
        return known

    async def _request(self, read: Callable[[bytes], Any], context: Context) -> Any:
        raw = await self._arrivals.message(context, caller_of(context))
        if raw is grpc.aio.EOF or len(raw) > MAX_REQUEST_BYTES:
            raise InvalidArgument("a request of the health service has one message, which names a service or none")
        try:
            return read(raw)
        except DecodeError as error:
            raise InvalidArgument(f"the message cannot be read: {error}") from None

    def _bounded(self, method: str, handler: Handler) -> Handler:
        """The handler, declared to gRPC as one with a stream of requests, so that this module reads them."""
        read: Callable[[bytes], Any] = handler.request_deserializer or bytes
        if handler.unary_stream is not None:
            watching: Behaviour = handler.unary_stream

            async def watch(_: AsyncIterator[bytes], context: Context) -> None:
                try:
                    with self._watches.taking(caller_of(context)):
                        await watching(await self._request(read, context), context)
                    return
                except grpc.aio.InternalError:
                    raise  # The client is gone.
                except Exception as error:
                    status = _status(method, error)
                await abort(context, status)

            return grpc.stream_stream_rpc_method_handler(watch, None, handler.response_serializer)
        assert handler.unary_unary is not None
        behaviour: Behaviour = handler.unary_unary

        async def call(_: AsyncIterator[bytes], context: Context) -> Any:
            exchange = Exchange(lambda _: self._request(read, context))
            sending = False
            try:
                exchange.held.enter_context(self._probes.taking(caller_of(context)))
                answer = await behaviour(await exchange.request(), context)
                exchange.sending(TAKING_SECONDS, method)
                sending = True
                return answer
            except Exception as error:
                status = _status(method, error)
            finally:
                if not sending:
                    exchange.held.close()
            await abort(context, status)
            return None

        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)


def _status(method: str, error: Exception) -> grpc.Status:
    if is_expected(error):
        return grpc_status(error)
    request_id = secrets.token_hex(8)
    logger.error("%s failed, request %s", method, request_id, exc_info=error)
    return internal_status(request_id)
