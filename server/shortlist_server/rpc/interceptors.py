"""What every call passes through: a limit, a request id, a deadline, and one way for errors to leave.

It stands before the other interceptors, whose errors leave here too. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from shortlist_server.config import Config
from shortlist_server.domain import Deadline
from shortlist_server.errors import DeadlineExceeded, Overloaded, Unavailable
from shortlist_server.observe.logs import request_id as current_request_id
from shortlist_server.observe.observer import CallWatch, Observer
from shortlist_server.pipeline.portions import answer_too_large
from shortlist_server.rpc.exchange import Exchange
from shortlist_server.rpc.handlers import WrappingInterceptor, exchanging
from shortlist_server.rpc.holding import holder
from shortlist_server.rpc.pieces import as_bytes
from shortlist_server.rpc.requests import RequestReader
from shortlist_server.rpc.status import abort, grpc_status, internal_status, is_expected

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context, Handler

REQUEST_ID = "x-request-id"
RETRY_AFTER_SECONDS = 0.5

_ids = random.Random()  # noqa: S311
"""Makes request ids, which need not be secret. Asking the system for random bytes would give up the interpreter's lock
in each call, and the event loop may wait long to get it back."""

STATUS_SECONDS = 1.0
"""Time for a status to leave; it waits behind messages that the client does not take."""


def deadline_of(context: Context, limit_seconds: float) -> Deadline:
    """The caller's deadline, or the server's limit where that is sooner."""
    left = context.time_remaining()
    return Deadline.after(limit_seconds if left is None or math.isinf(left) else min(left, limit_seconds))


def request_id_of(context: Context) -> tuple[str, dict[str, str]]:
    """A call's id, the caller's own or a new one, and the call's metadata without what is binary."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    given = metadata.get(REQUEST_ID, "")
    kept = 0 < len(given) <= 64 and given.isascii() and given.isprintable()
    return given if kept else f"{_ids.getrandbits(64):016x}", metadata


class CallInterceptor(WrappingInterceptor):
    """Bounds the calls served at once, reports every call, and turns errors into statuses.

    Health checks are never refused, so that an overloaded server is not taken for a dead one. Streams are not counted:
    they are long, and have limits of their own.
    """

    def __init__(
        self,
        *,
        max_concurrent: int,
        max_seconds: float,
        max_write_seconds: float | None = None,
        max_message_bytes: int | None = None,
        max_answer_seconds: float = 60.0,
        reader: RequestReader | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Nothing is served yet.

        Args:
            max_write_seconds: time for a client of a stream to take a message; None: for ever.
            max_message_bytes: the largest answer of a unary call that the transport sends; None: any.
            max_answer_seconds: time for a client to take an answer, or the status of a stream it did not take.
            reader: reads requests; None: one with the default limits.
        """
        super().__init__()
        self._max_concurrent = max_concurrent
        self._max_seconds = max_seconds
        self._write_seconds = max_write_seconds
        self._max_message_bytes = max_message_bytes
        self._answer_seconds = max_answer_seconds
        self._reader = reader or RequestReader(Config())
        self._observer = observer or Observer()
        self._running = 0
        self._under_way = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def drain(self, grace_seconds: float) -> None:
        """Refuses new calls with UNAVAILABLE, and waits until the others are answered.

        A call is answered when its status is with the transport, not when its handler returns. Calls that gRPC has not
        yet handed over are not waited for: ``hang_up`` ends those with UNAVAILABLE too.
        """
        self._draining = True
        self._idle.clear()
        if self._under_way:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_seconds)

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """See ``WrappingInterceptor``.

        Every method is declared to gRPC as one with a stream of requests: only then does it leave the reading to the
        handler.
        """
        behaviour, kind = exchanging(handler), self._reader.kind(method, handler.request_deserializer)
        serialize: Callable[[Any], Any] = handler.response_serializer or (lambda response: response)

        async def answered(exchange: Exchange, context: Context) -> Any:
            self._admit()
            with self._slot():
                deadline = deadline_of(context, self._max_seconds)
                async with asyncio.timeout(max(0.0, deadline.left_seconds())):
                    answer = as_bytes(serialize, await behaviour(exchange, context))
                    self._check_size(answer)
                    return answer

        async def written(requests: AsyncIterator[bytes], exchange: Exchange, context: Context) -> None:
            self._admit()
            given = self._reader.messages(kind, requests) if handler.request_streaming else exchange
            await self._write(behaviour(given, context), serialize, context)

        async def unary(_: AsyncIterator[bytes], context: Context) -> Any:
            request_id, watch = self._begin(method, context)
            code = "CANCELLED"
            exchange = Exchange(partial(self._reader.receive, kind, context))
            try:
                answer = await answered(exchange, context)
                exchange.sending(self._answer_seconds, method)
                code = "OK"
                return answer
            except TimeoutError:
                code, status = self._ended(DeadlineExceeded("the deadline passed"), method, request_id)
            except Exception as error:
                code, status = self._ended(error, method, request_id)
            finally:
                if code != "OK":
                    exchange.close()
                watch.ended(code)
            await self._abort(context, status, request_id)
            return None

        async def streaming(requests: AsyncIterator[bytes], context: Context) -> None:
            request_id, watch = self._begin(method, context)
            code = "CANCELLED"
            exchange = Exchange(partial(self._reader.receive, kind, context))
            try:
                await written(requests, exchange, context)
                code = "OK"
                return
            except Exception as error:
                code, status = self._ended(error, method, request_id)
            finally:
                exchange.close()
                watch.ended(code)
            await self._abort(context, status, request_id)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(streaming)
        return grpc.stream_unary_rpc_method_handler(unary)

    def _begin(self, method: str, context: Context) -> tuple[str, CallWatch]:
        """Gives the call its id, the caller's own or a new one; the answer returns it."""
        request_id, metadata = request_id_of(context)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        # Never reset: each call has a task of its own, and the variable ends with it.
        current_request_id.set(request_id)
        return request_id, self._observer.call(method, metadata)

    def _admit(self) -> None:
        """Admits a call. ``drain`` waits for it until its task ends, which is when gRPC is done with it."""
        if self._draining:
            raise Unavailable("the server is stopping; repeat the call", retry_after_seconds=RETRY_AFTER_SECONDS)
        self._under_way += 1
        call = asyncio.current_task()
        assert call is not None
        call.add_done_callback(self._answered)

    def _answered(self, _: asyncio.Task[Any]) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def _check_size(self, answer: bytes) -> None:
        """Refuses an answer that gRPC would not send, because gRPC's own status does not say what to do about it."""
        limit = self._max_message_bytes
        if limit is not None and len(answer) > limit:
            raise answer_too_large(limit)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if self._running >= self._max_concurrent:
            raise Overloaded(
                f"{self._running} calls are being served, which is the limit",
                retry_after_seconds=RETRY_AFTER_SECONDS,
                metadata={"setting": "max_concurrent_rpcs", "limit": str(self._max_concurrent)},
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _write(
        self, responses: AsyncGenerator[Any, None], serialize: Callable[[Any], Any], context: Context
    ) -> None:
        """Writes a stream's responses, each when the transport has room for it.

        Raises:
            Unavailable: the client left no room for too long; otherwise it would hold the stream's slot for ever.
        """
        async with aclosing(responses):
            async for response in responses:
                try:
                    async with asyncio.timeout(self._write_seconds):
                        await context.write(as_bytes(serialize, response))
                except TimeoutError:
                    raise Unavailable(
                        f"the client took no message for {self._write_seconds:g} s; connect again to go on",
                        metadata={"idle": "true"},
                    ) from None
                except grpc.aio.InternalError:
                    # The client is gone; gRPC cancels the call, before or after a message fails.
                    raise asyncio.CancelledError from None

    def _ended(self, error: Exception, method: str, request_id: str) -> tuple[str, grpc.Status]:
        """The code and the status of a call that ends with an error."""
        if is_expected(error):
            logger.debug("%s refused: %s", method, error.reason)
            if isinstance(error, Overloaded):
                self._observer.refused(error.metadata.get("setting", "queue"))
            return _code(error), grpc_status(error)
        logger.error("%s failed", method, exc_info=error)
        return _code(error), internal_status(request_id)

    async def _abort(self, context: Context, status: grpc.Status, request_id: str) -> None:
        """Ends a call with a status; a client that does not take the status gets some more time for it."""
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                await abort(context, status, (REQUEST_ID, request_id))
        except TimeoutError:
            if (held_by := holder()) is not None:
                asyncio.get_running_loop().call_later(self._answer_seconds, held_by.cancel)


def _code(error: Exception) -> str:
    return grpc_status(error).code.name if is_expected(error) else "INTERNAL"
