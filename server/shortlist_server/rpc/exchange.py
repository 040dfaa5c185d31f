"""One call with one request: its request, and what it holds of the limits until its answer is sent.

Interceptors pass on an exchange in place of a request. The request is read on first use, after the caller was
identified and admitted. The call gives back what it holds when the transport has taken its answer, which is after its
handler has returned. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from shortlist_server.rpc.holding import holder

logger = logging.getLogger(__name__)

LETTING_GO_SECONDS = 0.2
"""Between the end of a call's task and that of the one that holds it."""


class Exchange:
    """One call with one request."""

    def __init__(self, receive: Callable[[ExitStack], Awaitable[Any]]) -> None:
        """``receive`` reads the request, and puts what it takes of limits into the stack for the rest of the call."""
        self.held = ExitStack()
        """Closed when the answer was sent or has failed."""

        self._receive = receive
        self._checks: list[Callable[[Any], None]] = []
        self._request: Any = None

    def check(self, check: Callable[[Any], None]) -> None:
        """Adds a check of the request, made when it is read."""
        self._checks.append(check)

    async def request(self) -> Any:
        """The request, read on first use. Raises ``InvalidArgument`` and what the checks raise."""
        if self._request is None:
            request = await self._receive(self.held)
            for check in self._checks:
                check(request)
            self._request = request
        return self._request

    def close(self) -> None:
        """Gives back what the call holds, and drops its request."""
        self._request = None
        self._checks.clear()
        self.held.close()

    def sending(self, seconds: float, what: str) -> None:
        """The answer is about to be sent: holds on until it is, and ends the call when that takes too long.

        To be called in the task of the call, whose end is that of the sending.
        """
        self._request = None
        call = asyncio.current_task()
        assert call is not None
        timer = asyncio.get_running_loop().call_later(seconds, partial(_end, call, holder(), what))

        def sent(_: asyncio.Task[Any]) -> None:
            timer.cancel()
            self.held.close()

        call.add_done_callback(sent)


def _end(call: asyncio.Task[Any], held_by: asyncio.Task[Any] | None, what: str) -> None:
    logger.debug("%s: the client did not take its answer; the call is cancelled", what)
    call.cancel()
    if held_by is not None:
        # Where the client is gone by now, the holder ends with the call and must not be disturbed.
        asyncio.get_running_loop().call_later(LETTING_GO_SECONDS, held_by.cancel)
