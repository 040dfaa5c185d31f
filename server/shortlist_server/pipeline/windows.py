"""The reading side of an ingest stream: takes messages, and returns windows of operations.

A reader belongs to one session, on the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from shortlist_server.pipeline.operations import Operation

WINDOW_TOKENS = 16_384
"""Most cost of operations embedded and committed together; a single larger operation is its own window."""


class WindowReader:
    """Reads messages at most one window ahead, and hands them out in windows."""

    def __init__(self, messages: AsyncIterator[Sequence[Operation]], stop: asyncio.Event) -> None:
        self._messages = messages
        self._waiting: deque[Operation] = deque()
        self._cost = 0
        self._changed = asyncio.Condition()
        self._ended = False
        self._failure: BaseException | None = None
        self._stop = stop
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    async def window(self) -> list[Operation]:
        """The operations that have arrived, up to a window. Waits for at least one; empty at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._stop.is_set():
                return []
            if not self._waiting and self._failure is not None:
                raise self._failure
            window: list[Operation] = []
            cost = 0
            while self._waiting and (not window or cost + self._waiting[0].cost <= WINDOW_TOKENS):
                window.append(self._waiting.popleft())
                cost += window[-1].cost
            self._cost -= cost
            self._changed.notify_all()
            return window

    async def close(self) -> None:
        """Stops reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        failure: BaseException | None = None
        try:
            async for operations in self._messages:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._cost < WINDOW_TOKENS)
                    self._waiting.extend(operations)
                    self._cost += sum(operation.cost for operation in operations)
                    self._changed.notify_all()
        except Exception as error:
            failure = error
        finally:
            await self._end(failure)

    async def _watch(self) -> None:
        await self._stop.wait()
        await self._end(None)

    async def _end(self, failure: BaseException | None) -> None:
        async with self._changed:
            self._ended = True
            self._failure = failure
            self._changed.notify_all()
