"""How long a server waits for a client's next message on a stream.

Coroutines on the server's event loop; one ``IdleTimeout`` belongs to one stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from shortlist_server.errors import Unavailable

Message = TypeVar("Message")


class IdleTimeout:
    """Reads a stream's messages, and ends it when nothing has moved for too long, either way."""

    def __init__(self, *, first_seconds: float, idle_seconds: float) -> None:
        """``first_seconds``: for the first message to arrive; ``idle_seconds``: between any two moves after that."""
        self._first_seconds = first_seconds
        self._idle_seconds = idle_seconds
        self._timer: asyncio.Timeout | None = None

    def moved(self) -> None:
        """Something went to the client: it may be waiting for more, so the time begins anew."""
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time() + self._idle_seconds)

    async def messages(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """The messages of a stream, up to its end.

        Raises:
            Unavailable: the client was quiet for too long.
        """
        seconds = self._first_seconds
        iterator = aiter(requests)
        while True:
            try:
                async with asyncio.timeout(seconds) as self._timer:
                    message = await anext(iterator, None)
            except TimeoutError:
                raise Unavailable(
                    f"nothing moved on the stream for {seconds:g} s; connect again to go on", metadata={"idle": "true"}
                ) from None
            finally:
                self._timer = None
            if message is None:
                return
            yield message
            seconds = self._idle_seconds
