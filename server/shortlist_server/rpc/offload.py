"""Runs work that grows with a request or an answer: on the event loop if it is short, else in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from shortlist_server.interpreter import alone

T = TypeVar("T")

INLINE_BYTES = 64 * 1024
"""Messages up to this size are handled on the event loop: three milliseconds at worst."""

REQUEST_WEIGHT = 4
"""Converting a request takes at most this many times as long as parsing it: a filter may have a value for every few
bytes, at a microsecond each."""

received_bytes: ContextVar[int] = ContextVar("received_bytes", default=0)
"""Size of a call's one request; the call's own coroutines see it. 0 outside of a call, and of a stream of requests."""


async def offload(size: int, function: Callable[[], T]) -> T:
    """Calls a function that works on ``size`` bytes."""
    return function() if size <= INLINE_BYTES else await asyncio.to_thread(alone, function)


async def offload_conversion(function: Callable[[], T]) -> T:
    """Calls a function that converts the call's one request."""
    return await offload(REQUEST_WEIGHT * received_bytes.get(), function)
