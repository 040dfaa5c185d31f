"""Ends a call from the server's side although its client takes nothing.

A status waits in the transport behind the message that the client does not take, and gRPC offers a server no other way
to end one call. But gRPC cancels a call, and frees its bytes, when nothing refers to it any more. While a handler runs
or its answer waits, one task refers to the call: the task that waits for the client to close it. That task creates the
handler's own, which is how it is found here. If another release of gRPC works differently, nothing is found, and
answers wait as long as their clients like; a test would fail. gRPC itself refers to the last call of each method until
the next one, so one answer of each method may wait longer. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

HANDLING = "_handle_exceptions"
"""gRPC's coroutine that handles a call."""

_holder: ContextVar[asyncio.Task[Any] | None] = ContextVar("holder", default=None)


def watch_calls(loop: asyncio.AbstractEventLoop) -> None:
    """Remembers from now on, for each call, the task that holds it."""
    loop.set_task_factory(_make_task)  # type: ignore[arg-type]


def holder() -> asyncio.Task[Any] | None:
    """The task that holds the call which this coroutine serves; None if it is unknown."""
    return _holder.get()


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    if getattr(coroutine, "__name__", "") == HANDLING:
        context = options.get("context") or copy_context()
        context.run(_holder.set, asyncio.current_task(loop))
        options["context"] = context
    return asyncio.Task(coroutine, loop=loop, **options)
