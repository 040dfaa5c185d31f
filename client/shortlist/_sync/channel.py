"""What differs between the clients besides ``await``: the channel, the errors of a closed one, and sleeping.

Any thread, but not after a fork.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import grpc

from shortlist._channel import Connection

CLOSED_ERRORS = (ValueError,)
"""What a call raises when another thread has closed its channel."""

sleep = time.sleep

P = ParamSpec("P")
T = TypeVar("T")


def off_loop(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Runs what blocks."""
    return function(*arguments, **named)


class Channel:
    """The gRPC channel of a client."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.grpc: grpc.Channel = (
            grpc.insecure_channel(connection.target, options=connection.options)
            if connection.credentials is None
            else grpc.secure_channel(connection.target, connection.credentials, options=connection.options)
        )

    def close(self) -> None:
        """Ends the channel and the calls on it; harmless when closed."""
        # In a fork the channel is the parent's, and gRPC would wait for threads that are not there.
        if not self._connection.forked:
            self.grpc.close()
