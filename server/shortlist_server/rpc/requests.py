"""Reads requests, and limits how long one takes to arrive, how large it is and how many elements it holds.

gRPC would read and parse a request before anyone knows who sent it. Here it is read after the caller is identified and
admitted, and its elements are counted (``wire``) before it is parsed; a thread does both for a large one. gRPC
decompresses nothing: a message arrives compressed and is decompressed here, up to the size that it declares and may
have. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from shortlist_server import memory
from shortlist_server.config import Config
from shortlist_server.errors import DeadlineExceeded, InvalidArgument, Overloaded
from shortlist_server.interpreter import alone
from shortlist_server.rpc import bounds
from shortlist_server.rpc.offload import INLINE_BYTES, received_bytes
from shortlist_server.rpc.slots import Slots, caller_of
from shortlist_server.rpc.wire import Walker

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

GZIP = b"\x1f\x8b"
"""What gzip begins with, and no message does: a field of number 3 in a wire format that does not exist."""

LARGEST_GROWTH = 64
"""How many times its size a message may become when decompressed. Texts grow fourfold; a thousandfold is an attack."""

ANY_GROWTH_BYTES = 256 * 1024
"""Up to this size a message may grow by any factor."""

UNCOUNTED_BYTES = 1024
"""Messages up to this size are parsed without counting: they hold a few hundred elements at most."""

PART_BYTES = 64 * 1024
"""Compressed messages are decompressed in parts of so many bytes."""

PARSED_AT_ONCE = 2
"""Large messages decompressed, counted and parsed at the same time."""

TRIMMED_BYTES = 4 * 1024 * 1024
"""After a message larger than this, free memory is given back to the system."""

LARGE_MESSAGES = 2
"""All large requests under way together may have so many times the bytes of the largest message."""

PROMPT_SECONDS = 0.25
"""A request that takes longer to arrive than this is a slow one. Most come with their headers."""

LOOK_AGAIN_SECONDS = 0.05

SLOW_REQUESTS, SLOW_REQUESTS_OF_CALLER = 16, 8
"""Slow requests at the same time. One that has nearly arrived holds its memory while it waits."""

RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class RequestType:
    """A type of request."""

    walker: Walker | None
    """None: not counted, as the requests of the reflection service, which hold nothing repeated."""

    deserialize: Callable[[Any], Any]
    """Takes bytes or a bytearray."""


class Arrivals:
    """Waits for requests to arrive; only a limited number may be slow."""

    def __init__(self, seconds: float, slow: int, slow_of_caller: int) -> None:
        """``seconds``: for a request to arrive. ``slow``: how many may be slow at the same time."""
        self._seconds = seconds
        self._slow = Slots("max_slow_requests", slow, "max_slow_requests_per_caller", slow_of_caller, RETRY_SECONDS)

    async def message(self, context: Context, caller: str) -> Any:
        """The bytes of a call's next message, or gRPC's EOF.

        Raises:
            Overloaded: it takes long, and so do too many others.
            DeadlineExceeded: it did not arrive in time.
        """
        loop = asyncio.get_running_loop()
        refused: list[Overloaded] = []
        with ExitStack() as slow:
            try:
                async with asyncio.timeout(self._seconds) as timeout:

                    def late() -> None:
                        try:
                            slow.enter_context(self._slow.taking(caller))
                        except Overloaded as error:
                            refused.append(error)
                            timeout.reschedule(loop.time())

                    def look_again() -> None:
                        # If the loop itself was held up, the message has arrived and was not seen yet.
                        timers.append(loop.call_later(LOOK_AGAIN_SECONDS, late))

                    timers = [loop.call_later(PROMPT_SECONDS, look_again)]
                    try:
                        return await context.read()
                    finally:
                        for timer in timers:
                            timer.cancel()
            except TimeoutError:
                raise refused[0] if refused else DeadlineExceeded("the request did not arrive in time") from None


class RequestReader:
    """Reads and parses the requests of a server."""

    def __init__(self, config: Config) -> None:
        self._limits = bounds.limits(config)
        self._max_bytes = config.max_message_bytes
        self._arrivals = Arrivals(config.max_deadline_seconds, SLOW_REQUESTS, SLOW_REQUESTS_OF_CALLER)
        most = LARGE_MESSAGES * config.max_message_bytes
        self._large = Slots("max_request_bytes", most, "max_request_bytes_per_caller", most // 2, RETRY_SECONDS)
        self._memory = memory.Trimmer()
        self._parsing = asyncio.Semaphore(PARSED_AT_ONCE)

    def kind(self, method: str, deserialize: Callable[[bytes], Any] | None) -> RequestType:
        """The kind of a method's requests.

        Raises:
            LookupError: such a request may hold a repeated field that has no limit.
        """
        service, _, name = method.lstrip("/").rpartition("/")
        try:
            descriptor = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name].input_type
        except KeyError:
            return RequestType(None, deserialize or (lambda data: data))
        return RequestType(Walker(descriptor, self._limits), deserialize or (lambda data: data))

    async def receive(self, kind: RequestType, context: Context, held: ExitStack) -> Any:
        """The request of a call. What it takes of a limit is held until the stack closes.

        Raises:
            InvalidArgument: it cannot be read, holds too much, or there is none.
            Overloaded: too much is being received or worked on already.
            DeadlineExceeded: it did not arrive in time.
        """
        caller = caller_of(context)
        raw = await self._arrivals.message(context, caller)
        if raw is grpc.aio.EOF:
            raise InvalidArgument("the call has no request")
        size = self._full_size(raw)
        received_bytes.set(size)
        if size <= INLINE_BYTES:
            return self._parsed(kind, raw, size)
        held.enter_context(self._large.taking(caller, size))
        return await self._parsed_aside(kind, raw, size)

    async def messages(self, kind: RequestType, requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        """The messages of a stream. Raises ``InvalidArgument`` at one that cannot be parsed or holds too much."""
        async for raw in requests:
            size = self._full_size(raw)
            if size <= INLINE_BYTES:
                yield self._parsed(kind, raw, size)
            else:
                yield await self._parsed_aside(kind, raw, size)

    def _full_size(self, raw: bytes) -> int:
        """The decompressed size that a message declares."""
        if not raw.startswith(GZIP):
            return len(raw)
        size = int.from_bytes(raw[-4:], "little")
        if size > max(ANY_GROWTH_BYTES, LARGEST_GROWTH * len(raw)):
            raise InvalidArgument(
                f"the message has {size} bytes when it is decompressed, more than {LARGEST_GROWTH} times as many as it"
                " was sent with: send it uncompressed"
            )
        if size > self._max_bytes:
            raise InvalidArgument(
                f"the message has {size} bytes when it is decompressed, at most {self._max_bytes} are allowed",
                metadata={"setting": "max_message_bytes", "limit": str(self._max_bytes)},
            )
        return size

    async def _parsed_aside(self, kind: RequestType, raw: bytes, size: int) -> Any:
        async with self._parsing:
            try:
                return await asyncio.to_thread(alone, partial(self._parsed, kind, raw, size))
            finally:
                if size > TRIMMED_BYTES:
                    self._memory.freed()

    @staticmethod
    def _parsed(kind: RequestType, raw: bytes, size: int) -> Any:
        data = _decompressed(raw, size) if raw.startswith(GZIP) else raw
        if kind.walker is not None and size > UNCOUNTED_BYTES:
            kind.walker.check(data)
        try:
            return kind.deserialize(data)
        except (DecodeError, RecursionError) as error:
            raise InvalidArgument(f"the message cannot be read: {error}") from None


def _decompressed(raw: bytes, size: int) -> bytearray:
    """A message decompressed in small parts: what zlib makes at once, it copies under the interpreter's lock."""
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    data = bytearray()
    try:
        for at in range(0, len(raw), PART_BYTES):
            part, made = raw[at : at + PART_BYTES], PART_BYTES
            # Where a call makes as much as it may, there may be more without further input.
            while (part or made == PART_BYTES) and not stream.eof and len(data) <= size:
                some = stream.decompress(part, PART_BYTES)
                data += some
                part, made = stream.unconsumed_tail, len(some)
            if stream.eof or len(data) > size:
                break
    except zlib.error as error:
        raise InvalidArgument(f"the message cannot be decompressed: {error}") from None
    if len(data) != size or not stream.eof or stream.unused_data or at + PART_BYTES < len(raw):
        raise InvalidArgument("the message cannot be decompressed: its size is not the one it declares")
    return data
