"""How much is served at once: of searches, of ingest streams, and for one caller.

A caller is an API key or, on a server without keys, a client's address without its port. What is over a limit is
refused at once, with RESOURCE_EXHAUSTED, the name of the setting and a time to wait. Streams have a limit of their own,
so that however many are open, searches are served. Searches alone may wait for their turn, so that a burst is served
rather than refused, but only where the wait is short. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from shortlist_server.config import Config
from shortlist_server.errors import Overloaded
from shortlist_server.rpc.authorization import calling_key
from shortlist_server.rpc.handlers import Behaviour, Streaming, Unary, WrappingInterceptor, wrap

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context, Handler

SEARCH = "/shortlist.v1.SearchService/"
INGEST = "/shortlist.v1.DocumentService/Ingest"

RETRY_SECONDS = 0.25
"""When a refused call should come again: a search takes a fraction of it."""

STREAM_RETRY_SECONDS = 2.0
"""When a refused stream should come again; streams are long."""

SEARCHES_PER_CORE, MIN_SEARCHES = 4, 8
"""Searches at once where the setting is 0: more would only make each of them slower."""

INTERVAL_WEIGHT = 0.1
"""Weight of the newest in the running mean of the time between two turns."""

MAX_CALLERS = 10_000
"""Callers whose rate is remembered; the one that has been quiet for longest is forgotten first."""


class Slots:
    """Counts what is under way, in all and for each caller, against the limits of two settings; 0 is no limit."""

    def __init__(self, setting: str, limit: int, caller_setting: str, caller_limit: int, retry_seconds: float) -> None:
        self._setting, self._limit = setting, limit
        self._caller_setting, self._caller_limit = caller_setting, caller_limit
        self._retry_seconds = retry_seconds
        self._of_caller: dict[str, int] = {}
        self.taken = 0

    @contextmanager
    def taking(self, caller: str) -> Iterator[None]:
        """A slot for the time of a block. Raises ``Overloaded``."""
        own = self._of_caller.get(caller, 0)
        if self._limit and self.taken >= self._limit:
            raise _refusal("the server is serving as many as it may", self._setting, self._limit, self._retry_seconds)
        if self._caller_limit and own >= self._caller_limit:
            raise _refusal(
                "you have as many under way as one caller may",
                self._caller_setting,
                self._caller_limit,
                self._retry_seconds,
            )
        self.taken += 1
        self._of_caller[caller] = own + 1
        try:
            yield
        finally:
            self.taken -= 1
            if left := self._of_caller[caller] - 1:
                self._of_caller[caller] = left
            else:
                del self._of_caller[caller]


class Turns:
    """Lets so many through at once; others wait in line, unless that would take too long.

    What a wait would take is known from how fast turns came lately, so that a caller for whom there will be no turn in
    time hears of it at once.
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
        """A turn for the time of a block. Raises ``Overloaded``."""
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
        """Measures how fast turns come; only while somebody waits do they come as fast as they can."""
        now = time.monotonic()
        if self._waiting and self._last:
            self._interval_seconds += INTERVAL_WEIGHT * (now - self._last - self._interval_seconds)
        self._last = now if self._waiting else 0.0

    def _refusal(self, expected_seconds: float) -> Overloaded:
        return _refusal(
            "more searches are waiting than can be answered in time",
            "max_concurrent_searches",
            self._limit,
            max(RETRY_SECONDS, expected_seconds),
        )


class Rates:
    """A token bucket for each caller, holding one second's worth of calls, and at least one."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(1.0, per_second)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Takes a token. Raises ``Overloaded`` with the time until there is one."""
        if not self._per_second:
            return
        now = time.monotonic()
        tokens, then = self._buckets.pop(caller, (self._size, now))
        tokens = min(self._size, tokens + (now - then) * self._per_second)
        if tokens < 1:
            self._buckets[caller] = (tokens, now)
            wait = (1 - tokens) / self._per_second
            raise _refusal(
                "you are calling faster than one caller may", "max_requests_per_second", self._per_second, wait
            )
        self._buckets[caller] = (tokens - 1, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)


class LimitInterceptor(WrappingInterceptor):
    """Refuses what is over a limit. Stands behind the authorisation, which tells callers apart."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        each = ("max_concurrent_rpcs_per_caller", config.max_concurrent_rpcs_per_caller, RETRY_SECONDS)
        self._turns = Turns(
            config.max_concurrent_searches or max(MIN_SEARCHES, SEARCHES_PER_CORE * (os.cpu_count() or 1)),
            config.max_search_wait_seconds,
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
        self._rates = Rates(config.max_requests_per_second)

    @property
    def saturated(self) -> bool:
        """Whether searches have to wait for their turn."""
        return self._turns.all_taken

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """See ``WrappingInterceptor``."""
        slots = self.streams if method == INGEST else self.searches if method.startswith(SEARCH) else self.calls

        def turn() -> AbstractAsyncContextManager[None]:
            return self._turns.taking() if slots is self.searches else nullcontext()

        def unary(behaviour: Behaviour) -> Unary:
            async def call(request: Any, context: Context) -> Any:
                caller = caller_of(context)
                self._rates.take(caller)
                with slots.taking(caller):
                    async with turn():
                        return await behaviour(request, context)

            return call

        def streaming(behaviour: Behaviour) -> Streaming:
            async def call(requests: Any, context: Context) -> AsyncIterator[Any]:
                caller = caller_of(context)
                self._rates.take(caller)
                with slots.taking(caller):
                    async for response in behaviour(requests, context):
                        yield response

            return call

        return wrap(handler, unary=unary, streaming=streaming)


def caller_of(context: Context) -> str:
    """Who calls: the key's name, else the client's address without its port."""
    return calling_key().name or context.peer().rpartition(":")[0]


def _refusal(what: str, setting: str, limit: float, retry_seconds: float) -> Overloaded:
    return Overloaded(
        f"{what}: {limit:g} ({setting}); wait and repeat",
        retry_after_seconds=retry_seconds,
        metadata={"setting": setting, "limit": f"{limit:g}"},
    )
