"""What every call passes on its way in and out: a limit, a request id, a deadline, and one way for errors to leave.

It stands before the other interceptors, whose errors leave here too. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from shortlist_server.domain import Deadline
from shortlist_server.errors import DeadlineExceeded, InvalidArgument, Overloaded, ShortlistError, Unavailable
from shortlist_server.observe.logs import request_id as current_request_id
from shortlist_server.observe.observer import CallWatch, Observer
from shortlist_server.rpc.handlers import Behaviour, Deserializer, Unary, WrappingInterceptor, Writing, wrap
from shortlist_server.rpc.status import grpc_status, internal_status

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context, Handler

REQUEST_ID = "x-request-id"
RETRY_AFTER_SECONDS = 0.5

STATUS_SECONDS = 1.0
"""Time for a status to leave; it waits behind the messages that a client does not take."""


def deadline_of(context: Context, limit_seconds: float) -> Deadline:
    """The caller's deadline, or the server's limit where that is sooner."""
    left = context.time_remaining()
    return Deadline.after(limit_seconds if left is None or math.isinf(left) else min(left, limit_seconds))


@dataclass(frozen=True, slots=True)
class Malformed:
    """In the place of a message whose bytes could not be read."""

    reason: str


class CallInterceptor(WrappingInterceptor):
    """Bounds the calls served at once, reports every call, and turns errors into statuses.

    Health checks are never refused, so that an overloaded server is not taken for a dead one. Calls that stream both
    ways are not counted: they are long, and have a limit of their own.
    """

    def __init__(
        self,
        *,
        max_concurrent: int,
        max_seconds: float,
        max_write_seconds: float | None = None,
        max_message_bytes: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Nothing is served yet.

        Args:
            max_write_seconds: time for a client of a stream to take a message; None: for ever.
            max_message_bytes: the largest answer of a unary call that the transport sends; None: any.
        """
        super().__init__()
        self._max_concurrent = max_concurrent
        self._max_seconds = max_seconds
        self._write_seconds = max_write_seconds
        self._max_message_bytes = max_message_bytes
        self._observer = observer or Observer()
        self._running = 0
        self._under_way = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def drain(self, grace_seconds: float) -> None:
        """Refuses calls that begin from now on, with UNAVAILABLE, and waits until the others are answered.

        A call is answered when its status is with the transport, not when its handler returns. Calls that gRPC has not
        yet handed over are not waited for: ``hang_up`` ends those with UNAVAILABLE too.
        """
        self._draining = True
        self._idle.clear()
        if self._under_way:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_seconds)

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """See ``WrappingInterceptor``."""

        def unary(behaviour: Behaviour) -> Unary:
            async def call(request: Any, context: Context) -> Any:
                request_id, watch = self._begin(method, context)
                code = "CANCELLED"
                try:
                    self._admit(context)
                    _check_readable(request)
                    with self._slot():
                        deadline = deadline_of(context, self._max_seconds)
                        async with asyncio.timeout(max(0.0, deadline.left_seconds())):
                            response = await behaviour(request, context)
                    self._check_size(response)
                    code = "OK"
                    return response
                except TimeoutError:
                    code = "DEADLINE_EXCEEDED"
                    await self._abort(context, DeadlineExceeded("the deadline passed"), method, request_id)
                except Exception as error:
                    code = _code(error)
                    await self._abort(context, error, method, request_id)
                finally:
                    watch.ended(code)

            return call

        def streaming(behaviour: Behaviour) -> Writing:
            async def call(requests: Any, context: Context) -> None:
                request_id, watch = self._begin(method, context)
                code = "CANCELLED"
                try:
                    self._admit(context)
                    if hasattr(requests, "__aiter__"):
                        await self._write(behaviour(_readable(requests), context), context)
                    else:
                        _check_readable(requests)
                        with self._slot():
                            await self._write(behaviour(requests, context), context)
                    code = "OK"
                except Exception as error:
                    code = _code(error)
                    await self._abort(context, error, method, request_id)
                finally:
                    watch.ended(code)

            return call

        return wrap(handler, unary=unary, streaming=streaming, deserializer=tolerant)

    def _begin(self, method: str, context: Context) -> tuple[str, CallWatch]:
        """Gives the call its id, the caller's own or a new one, which goes back with the answer."""
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        given = metadata.get(REQUEST_ID, "")
        request_id = given if 0 < len(given) <= 64 and given.isascii() and given.isprintable() else secrets.token_hex(8)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        # Never reset: every call is served by a task of its own, with which the variable goes.
        current_request_id.set(request_id)
        return request_id, self._observer.call(method, metadata)

    def _admit(self, context: Context) -> None:
        """Lets a call in, to be waited for by ``drain`` until gRPC is done with it."""
        if self._draining:
            raise Unavailable("the server is stopping; repeat the call", retry_after_seconds=RETRY_AFTER_SECONDS)
        self._under_way += 1
        context.add_done_callback(self._answered)  # type: ignore[arg-type]  # the stubs want a class of theirs

    def _answered(self, _: Context) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def _check_size(self, response: Any) -> None:
        """Refuses an answer that gRPC would not send: its own status says neither what to do nor that it will stay."""
        limit = self._max_message_bytes
        if limit is not None and (size := response.ByteSize()) > limit:
            raise InvalidArgument(
                f"the answer would have {size} bytes, and a message has {limit} at most: ask for fewer documents at"
                " once, or for less of each (include)",
                metadata={"setting": "max_message_bytes", "limit": str(limit)},
            )

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

    async def _write(self, responses: AsyncGenerator[Any, None], context: Context) -> None:
        """Writes a stream's responses, each when there is room for it in the transport.

        Raises:
            Unavailable: the client left no room for too long; it would hold the stream's place for ever.
        """
        async with aclosing(responses):
            async for response in responses:
                try:
                    async with asyncio.timeout(self._write_seconds):
                        await context.write(response)
                except TimeoutError:
                    raise Unavailable(
                        f"the client took no message for {self._write_seconds:g} s; connect again to go on",
                        metadata={"idle": "true"},
                    ) from None
                except grpc.aio.InternalError:
                    # The client is gone; gRPC cancels the call for it, sooner or later than a message fails.
                    raise asyncio.CancelledError from None

    async def _abort(self, context: Context, error: Exception, method: str, request_id: str) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if _is_meant(error):
            logger.debug("%s refused: %s", method, error.reason)
            if isinstance(error, Overloaded):
                self._observer.refused(error.metadata.get("setting", "queue"))
            status = grpc_status(error)
        else:
            logger.error("%s failed", method, exc_info=error)
            status = internal_status(request_id)
        metadata = (*(status.trailing_metadata or ()), (REQUEST_ID, request_id))
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SECONDS):
                await context.abort(status.code, status.details, metadata)


def _is_meant(error: Exception) -> TypeGuard[ShortlistError]:
    """Whether it is for the caller; the base class itself stands for what nobody foresaw."""
    return isinstance(error, ShortlistError) and type(error) is not ShortlistError


def _code(error: Exception) -> str:
    if _is_meant(error):
        return grpc_status(error).code.name
    return "UNKNOWN" if isinstance(error, grpc.aio.AbortError) else "INTERNAL"


def tolerant(deserialize: Deserializer) -> Deserializer:
    """Reads a message; what cannot be read is a value too, for gRPC would answer an exception here with UNKNOWN."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except (DecodeError, RecursionError) as error:
            return Malformed(str(error))

    return read


def _check_readable(request: Any) -> None:
    if isinstance(request, Malformed):
        raise InvalidArgument(f"the message cannot be read: {request.reason}")


async def _readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _check_readable(request)
        yield request
