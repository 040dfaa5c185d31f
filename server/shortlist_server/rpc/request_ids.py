"""Answers a repeated call as the first one was answered (AIP-155).

A caller whose connection breaks cannot know whether its call was done. If its request has a ``request_id``, it can send
it again: the server does it once, however often it comes. The work belongs to the id and not to one call: it goes on
when a call is cancelled, and calls with the same id that come meanwhile wait for it together.

Answers are kept in memory, within the limits below. A failed call is forgotten at once, so a repetition is done anew.
The first may have done a part: a deletion by filter or by ids keeps the steps before its failure, and a retry of dead
letters the documents that it stored. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, RequestIdReused, ShortlistError, Unavailable
from shortlist_server.rpc.exchange import Exchange
from shortlist_server.rpc.handlers import Behaviour, Streaming, Unary, WrappingInterceptor, wrap
from shortlist_server.rpc.offload import offload_conversion
from shortlist_server.rpc.slots import Slots, caller_of

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context, Handler

logger = logging.getLogger(__name__)

KEPT_SECONDS = 600.0
"""Time for which an answer is kept. Callers repeat a call within seconds."""

KEPT, KEPT_OF_CALLER = 10_000, 2_000
"""Most answers that are kept, in all and of one caller. The oldest is forgotten first."""

KEPT_BYTES = 16 * 1024 * 1024
"""Most bytes of all answers that are kept."""

RETRY_SECONDS = 0.5

CANCEL_SECONDS = 1.0
"""Time for a cancelled work to end."""

MAX_ID_CHARACTERS = 64

_Key = tuple[str, str]
"""The caller and the request id."""


@dataclass(slots=True, kw_only=True)
class _Answered:
    """A call that is being done or was done."""

    fingerprint: bytes
    task: asyncio.Task[Any]
    held: ExitStack
    size: int = 0
    end: float = 0.0
    waiting: int = 0


class RequestIds:
    """The calls with an id that are under way, and the answers of those that were done."""

    def __init__(
        self, *, most_at_once: int, most_of_caller: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``most_at_once``, ``most_of_caller``: calls with an id under way, those whose caller is gone included."""
        self._slots = Slots(
            "max_concurrent_rpcs", most_at_once, "max_concurrent_rpcs_per_caller", most_of_caller, RETRY_SECONDS
        )
        self._clock = clock
        self._running: dict[_Key, _Answered] = {}
        # In the order in which they end, which is the order in which they are forgotten.
        self._done: OrderedDict[_Key, _Answered] = OrderedDict()
        self._done_of_caller: Counter[str] = Counter()
        self._bytes = 0

    async def answer(
        self,
        caller: str,
        request_id: str,
        fingerprint: bytes,
        work: Callable[[], Coroutine[Any, Any, Any]],
        held: ExitStack | None = None,
    ) -> Any:
        """The answer to a call, done now unless it is being done or was done.

        Args:
            caller: who calls; ids of different callers have nothing to do with each other.
            fingerprint: of the method and the whole request.
            work: does the call.
            held: what the call holds of the limits. If it is done now, that is held until the work has ended.

        Raises:
            RequestIdReused: the id belongs to another request.
            Overloaded: too many calls with an id are under way.
            Unavailable: the server stopped before it was done.
        """
        self._forget()
        key = (caller, request_id)
        known = self._running.get(key) or self._done.get(key)
        if known is None:
            known = self._start(key, fingerprint, work, ExitStack() if held is None else held.pop_all())
        elif known.fingerprint != fingerprint:
            raise RequestIdReused(
                "the request id belongs to another request; choose a new one for each request", field="request_id"
            )
        known.waiting += 1
        try:
            return await asyncio.shield(known.task)
        except asyncio.CancelledError:
            if not known.task.cancelled():
                raise  # It is this call that is cancelled.
            raise Unavailable("the server is stopping; repeat the call", retry_after_seconds=RETRY_SECONDS) from None
        finally:
            known.waiting -= 1

    async def drain(self, grace_seconds: float) -> None:
        """Waits for what is being done although nobody waits for it any more; then cancels it and sees it end."""
        tasks = [one.task for one in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                # What the work uses is closed next. A work in a thread cannot be stopped, and is not waited for here.
                await asyncio.wait(late, timeout=CANCEL_SECONDS)

    def _start(
        self, key: _Key, fingerprint: bytes, work: Callable[[], Coroutine[Any, Any, Any]], held: ExitStack
    ) -> _Answered:
        caller, _ = key

        async def run() -> Any:
            with self._slots.taking(caller):
                return await work()

        task = asyncio.create_task(run())
        started = self._running[key] = _Answered(fingerprint=fingerprint, task=task, held=held)
        task.add_done_callback(partial(self._ended, key, started))
        return started

    def _ended(self, key: _Key, one: _Answered, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        one.held.close()
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            if not one.waiting and (not isinstance(error, ShortlistError) or type(error) is ShortlistError):
                logger.error("a call failed whose caller is gone", exc_info=error)
            return
        answer = task.result()
        one.size = len(answer) if isinstance(answer, bytes) else answer.ByteSize()
        one.end = self._clock()
        self._done[key] = one
        self._done_of_caller[key[0]] += 1
        self._bytes += one.size
        if self._done_of_caller[key[0]] > KEPT_OF_CALLER:
            self._drop(next(other for other in self._done if other[0] == key[0]))
        self._forget()

    def _forget(self) -> None:
        until = self._clock() - KEPT_SECONDS
        while self._done:
            key, one = next(iter(self._done.items()))
            if one.end > until and len(self._done) <= KEPT and self._bytes <= KEPT_BYTES:
                return
            self._drop(key)

    def _drop(self, key: _Key) -> None:
        self._bytes -= self._done.pop(key).size
        self._done_of_caller[key[0]] -= 1
        if not self._done_of_caller[key[0]]:
            del self._done_of_caller[key[0]]


class RequestIdInterceptor(WrappingInterceptor):
    """Applies ``RequestIds`` to every unary call whose request has an id. Comes after authorisation and limits."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._ids = RequestIds(
            most_at_once=config.max_concurrent_rpcs, most_of_caller=config.max_concurrent_rpcs_per_caller
        )

    async def drain(self, grace_seconds: float) -> None:
        """Waits for calls that nobody waits for any more, for so long at most."""
        await self._ids.drain(grace_seconds)

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """See ``WrappingInterceptor``."""
        if handler.unary_unary is None:
            return handler

        def unary(behaviour: Behaviour) -> Unary:
            async def call(exchange: Exchange, context: Context) -> Any:
                request = await exchange.request()
                request_id = getattr(request, "request_id", "")
                if not request_id:
                    return await behaviour(exchange, context)
                _check(request_id)
                # An exchange and a context of its own: those of this call end with the call.
                own, peer = Exchange(partial(_received, request)), _Peer(context.peer())
                fingerprint = await offload_conversion(partial(_fingerprint, method, request))
                return await self._ids.answer(
                    caller_of(context), request_id, fingerprint, lambda: behaviour(own, peer), exchange.held
                )

            return call

        def streaming(behaviour: Behaviour) -> Streaming:
            raise NotImplementedError("requests of streams have no id")

        return wrap(handler, unary=unary, streaming=streaming)


class _Peer:
    """What is left of the context of a call that may be over: who called.

    gRPC frees its own context with the call; whoever asks it something later crashes the process.
    """

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        """As gRPC's context has it."""
        return self._peer


async def _received(request: Message, _: object) -> Message:
    return request


def _check(request_id: str) -> None:
    if len(request_id) > MAX_ID_CHARACTERS or not (request_id.isascii() and request_id.isprintable()):
        raise InvalidArgument(
            f"a request id is up to {MAX_ID_CHARACTERS} printable characters of ASCII", field="request_id"
        )


def _fingerprint(method: str, request: Message) -> bytes:
    """Of the method and what the request says. Not of its bytes: a client may send the same in another order."""
    digest = blake2b(method.encode(), digest_size=16)
    for part in _parts(request):
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.digest()


def _parts(request: Message) -> Iterator[bytes]:
    """A request in pieces, as protobuf keeps the interpreter's lock while it serialises one."""
    rest: dict[str, Any] = {}
    for field, value in request.ListFields():
        if field.is_repeated and field.message_type is not None:
            yield field.name.encode()
            yield from (one.SerializeToString(deterministic=True) for one in value)
        else:
            rest[field.name] = value
    yield b""
    yield type(request)(**rest).SerializeToString(deterministic=True)
