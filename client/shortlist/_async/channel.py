"""What differs between the clients besides ``await``: the channel, the errors of a closed one, and sleeping.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio

import grpc

from shortlist._channel import Connection

CLOSED_ERRORS = (grpc.aio.UsageError, asyncio.CancelledError)
"""What a call raises when its channel is closed while it runs; the caller's own cancellation raises the same."""

sleep = asyncio.sleep

off_loop = asyncio.to_thread
"""Runs what blocks."""


class Channel:
    """The gRPC channel of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._made: grpc.aio.Channel | None = None

    @property
    def grpc(self) -> grpc.aio.Channel:
        """Made when it is first used: it belongs to the event loop that runs then, and a client may be made before."""
        if self._made is None:
            to = self._connection
            if to.credentials is None:
                self._made = grpc.aio.insecure_channel(to.target, options=to.options)
            else:
                self._made = grpc.aio.secure_channel(to.target, to.credentials, options=to.options)
        return self._made

    async def close(self) -> None:
        """Ends the channel and the calls on it; harmless when closed."""
        if self._made is not None:
            await self._made.close()
