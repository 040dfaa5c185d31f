"""How much is served at once: of searches, of ingest streams, and for one caller.

A call over a limit is refused at once, with RESOURCE_EXHAUSTED, the name of the setting and a time to wait. Streams
have a limit of their own: however many are open, searches are served. Only searches may wait for a turn, and only where
the wait is short: a burst is served, an overload refused. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from shortlist_server.config import Config
from shortlist_server.errors import Overloaded
from shortlist_server.rpc.answers import UnsentAnswers
from shortlist_server.rpc.exchange import Exchange
from shortlist_server.rpc.handlers import Behaviour, Streaming, Unary, WrappingInterceptor, wrap
from shortlist_server.rpc.pieces import as_bytes
from shortlist_server.rpc.slots import Slots, caller_of, refusal

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context, Handler

SEARCH = "/shortlist.v1.SearchService/"
INGEST = "/shortlist.v1.DocumentService/Ingest"
WAIT_OPERATION = "/shortlist.v1.OperationService/WaitOperation"

RETRY_SECONDS = 0.25
"""When to repeat a refused call: a search takes a fraction of it."""

STREAM_RETRY_SECONDS = 2.0
"""When to reopen a refused stream; streams are long."""

LARGE_ANSWERS = {f"/shortlist.v1.DocumentService/{name}" for name in ("Get", "List", "ListDeadLetters")} | {
    "/shortlist.v1.OperationService/GetOperation"
}
"""Methods whose answers may be megabytes large."""

LARGE_AT_ONCE = 2
"""Such answers made at the same time."""

MAX_LARGE_WAITS, MAX_LARGE_WAITS_OF_CALLER = 128, 32
"""Calls for such answers, those that wait included."""

MAX_OPERATION_WAITS, MAX_OPERATION_WAITS_OF_CALLER = 256, 64
"""Streams of ``WaitOperation``, which may be open for hours."""

WAITS_SHARE = 4
"""One caller may have this fraction (one in four) of the searches that wait for a sequence."""

SEARCHES_PER_CORE, MIN_SEARCHES = 4, 8
"""Searches at the same time where the setting is 0. More would only make each slower."""

INTERVAL_WEIGHT = 0.1
"""Weight of the latest interval in the running mean of the time between two turns."""

MAX_CALLERS = 10_000
"""Callers whose rate is remembered; the one quiet for longest is forgotten first."""


class AdmissionQueue:
    """Lets a limited number through at the same time; others wait in line, unless that would take too long.

    The recent pace of turns tells how long a wait will be. A caller who would wait too long is refused at once.
    """

    def __init__(self, limit: int, wait_seconds: float) -> None:
        self._limit = limit
        self._wait_seconds = wait_seconds
        self._turns = asyncio.Semaphore(limit)
        self._waiting = 0
        self._interval_seconds = 0.0
        self._last = 0.0

    @property
    def all_taken(self) -> bool:
        """Whether a newcomer has to wait."""
        return self._turns.locked()

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[None]:
        """Holds a turn for the time of a block. Raises ``Overloaded``."""
        if self._turns.locked():
            await self._wait()
        else:
            await self._turns.acquire()
        try:
            yield
        finally:
            self._note()
            self._turns.release()

    async def _wait(self) -> None:
        expected = (self._waiting + 1) * self._interval_seconds
        if self._wait_seconds <= 0 or expected > self._wait_seconds:
            raise self._refusal(expected)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise self._refusal(expected) from None
        finally:
            self._waiting -= 1

    def _note(self) -> None:
        """Measures the pace of turns; it is the full pace only while somebody waits."""
        now = time.monotonic()
        if self._waiting and self._last:
            self._interval_seconds += INTERVAL_WEIGHT * (now - self._last - self._interval_seconds)
        self._last = now if self._waiting else 0.0

    def _refusal(self, expected_seconds: float) -> Overloaded:
        return refusal(
            "more searches are waiting than can be answered in time",
            "max_concurrent_searches",
            self._limit,
            max(RETRY_SECONDS, expected_seconds),
        )


class Shared:
    """A resource that the parts of a call hold together: the first takes it, the last gives it back."""

    def __init__(self, taking: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        self._taking = taking
        self._held = AsyncExitStack()
        self._changing = asyncio.Lock()
        self._users = 0

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[None]:
        """Holds it for the time of a block. Raises what taking it raises."""
        async with self._changing:
            if not self._users:
                await self._held.enter_async_context(self._taking())
            self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                await self._held.aclose()


class Rates:
    """A token bucket for each caller, with room for the calls of one second, and for one at least."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(1.0, per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Takes a token. Raises ``Overloaded`` with the time until the next one."""
        if not self._per_second:
            return
        now = time.monotonic()
        tokens, then = self._buckets.pop(caller, (self._size, now))
        tokens = min(self._size, tokens + (now - then) * self._per_second)
        if tokens < 1:
            self._buckets[caller] = (tokens, now)
            wait = (1 - tokens) / self._per_second
            raise refusal(
                "you are calling faster than one caller may", "max_requests_per_second", self._per_second, wait
            )
        self._buckets[caller] = (tokens - 1, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)


class LimitInterceptor(WrappingInterceptor):
    """Refuses calls over a limit. Comes after the authorisation, which tells callers apart."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        each = ("max_concurrent_rpcs_per_caller", config.max_concurrent_rpcs_per_caller, RETRY_SECONDS)
        self.queue = AdmissionQueue(
            config.max_concurrent_searches or max(MIN_SEARCHES, SEARCHES_PER_CORE * (os.cpu_count() or 1)),
            config.max_search_wait_seconds,
        )
        self.waits = Slots(
            "max_sequence_waits",
            config.max_sequence_waits,
            "max_sequence_waits_per_caller",
            max(1, config.max_sequence_waits // WAITS_SHARE),
            RETRY_SECONDS,
        )
        self.searches = Slots("max_concurrent_rpcs", config.max_concurrent_rpcs, *each)
        self.calls = Slots("max_concurrent_rpcs", config.max_concurrent_rpcs, *each)
        self.streams = Slots(
            "max_ingest_streams",
            config.max_ingest_streams,
            "max_ingest_streams_per_caller",
            config.max_ingest_streams_per_caller,
            STREAM_RETRY_SECONDS,
        )
        self.operation_waits = Slots(
            "max_operation_waits",
            MAX_OPERATION_WAITS,
            "max_operation_waits_per_caller",
            MAX_OPERATION_WAITS_OF_CALLER,
            STREAM_RETRY_SECONDS,
        )
        self._rates = Rates(config.max_requests_per_second)
        self._max_message_bytes = config.max_message_bytes
        self._unsent = UnsentAnswers(config.max_unsent_bytes)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._large_waits = Slots(
            "max_large_answers",
            MAX_LARGE_WAITS,
            "max_large_answers_per_caller",
            MAX_LARGE_WAITS_OF_CALLER,
            RETRY_SECONDS,
        )

    @property
    def saturated(self) -> bool:
        """Whether searches have to wait for their turn."""
        return self.queue.all_taken

    @asynccontextmanager
    async def large_answer(self, caller: str) -> AsyncIterator[None]:
        """A turn to make an answer that may be megabytes large. Raises ``Overloaded``."""
        with self._large_waits.taking(caller):
            async with self._large:
                self._unsent.check(caller, large=True)
                yield

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """See ``WrappingInterceptor``."""
        slots = self._slots(method)
        large = method in LARGE_ANSWERS

        def unary(behaviour: Behaviour) -> Unary:
            async def call(exchange: Exchange, context: Context) -> Any:
                caller = caller_of(context)
                self._rates.take(caller)
                with slots.taking(caller):
                    self._unsent.check(caller, large=False)
                    await exchange.request()
                    async with self.large_answer(caller) if large else nullcontext():
                        answer = as_bytes(handler.response_serializer, await behaviour(exchange, context))
                    # The call's interceptor refuses what is larger.
                    self._unsent.take(exchange.held, caller, min(len(answer), self._max_message_bytes))
                    return answer

            return call

        def streaming(behaviour: Behaviour) -> Streaming:
            async def call(requests: Any, context: Context) -> AsyncIterator[Any]:
                caller = caller_of(context)
                self._rates.take(caller)
                with slots.taking(caller):
                    async for response in behaviour(requests, context):
                        with ExitStack() as held:
                            # What is bytes by now may be large, and waits here until the client takes it.
                            if isinstance(response, bytes):
                                self._unsent.take(held, caller, len(response))
                            yield response

            return call

        return wrap(handler, unary=unary, streaming=streaming)

    def _slots(self, method: str) -> Slots:
        if method == INGEST:
            return self.streams
        if method == WAIT_OPERATION:
            return self.operation_waits
        return self.searches if method.startswith(SEARCH) else self.calls
