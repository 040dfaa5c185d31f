# Made by scripts/unasync.py from _async/base.py; change that file.
"""The connection of a client: how calls are carried, and whether the server is ready."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import grpc

from shortlist import _calls as calls
from shortlist._channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS, MAX_MESSAGE_BYTES, Connection, ReadyWait, Tls
from shortlist._errors import DeadlineExceeded, Unavailable
from shortlist._status import from_rpc_error
from shortlist._sync.channel import CLOSED_ERRORS, Channel, off_loop, sleep

T = TypeVar("T")


class ClientBase:
    """A connection to a server, without the calls."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        api_key: str | None = None,
        tls: bool | Tls = False,
        credentials: grpc.ChannelCredentials | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """Prepares a connection.

        Args:
            target: the server's address, "HOST:PORT", or another gRPC target.
            timeout_seconds: deadline of each call that has none of its own.
            api_key: sent with every call; use ``tls`` with it outside this machine, or others can read it.
            tls: encrypt the connection: True to trust the system's authorities, or how to know the server.
            credentials: gRPC's own credentials, in place of ``tls``.
            max_message_bytes: largest message sent or received.
        """
        self._connection = Connection(
            target,
            timeout_seconds=timeout_seconds,
            api_key=api_key,
            tls=tls,
            credentials=credentials,
            max_message_bytes=max_message_bytes,
        )
        self._channel = Channel(self._connection)

    def health(self, service: str = "", *, timeout_seconds: float | None = None) -> bool:
        """Whether the server, or one of its services named in full, is serving, by the health protocol.

        Raises:
            ServiceNotFound: the server has no service of that name.
        """
        return self._unary(calls.health(service), timeout_seconds)

    def ready(self, *, timeout_seconds: float = 5.0) -> bool:
        """Whether the server answers queries now; False when it is not there, too."""
        try:
            return self.health(timeout_seconds=timeout_seconds)
        except (Unavailable, DeadlineExceeded):
            return False

    def wait_until_ready(self, timeout_seconds: float = 60.0) -> None:
        """Waits until the server answers queries.

        Raises:
            ServerUnavailable: it did not in time.
        """
        wait = ReadyWait(timeout_seconds)
        while not wait.over():
            try:
                if self._unary(calls.health(), wait.call_seconds()):
                    return
            except (Unavailable, DeadlineExceeded) as error:
                wait.error = error
            sleep(wait.pause_seconds())
        raise self._connection.unavailable(timeout_seconds, wait.error)

    def close(self) -> None:
        """Ends the connection and the calls in progress on it; harmless when closed."""
        self._connection.closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.target!r})"

    def _unary(self, call: calls.Call[T], timeout_seconds: float | None) -> T:
        connection = self._connection
        connection.check()
        method = self._channel.grpc.unary_unary(f"/{call.method}", calls.to_bytes, call.parse)
        try:
            response = method(
                calls.identified(call.request),
                timeout=connection.timeout(timeout_seconds, by_default=call.deadline),
                metadata=connection.metadata,
            )
        except grpc.RpcError as error:
            connection.check()  # Closing the client ends its calls, too.
            raise off_loop(connection.explained, from_rpc_error(error)) from error
        except CLOSED_ERRORS:
            # Closed between the check and the answer; else the error is the caller's own.
            connection.check()
            raise
        return call.read(response)

    def _stream(self, call: calls.Call[T], take: Callable[[T], None], timeout_seconds: float | None) -> None:
        """Makes a call with a stream of answers, and passes each to ``take``. Lets errors of ``take`` through."""
        connection = self._connection
        connection.check()
        method = self._channel.grpc.unary_stream(f"/{call.method}", calls.to_bytes, call.parse)
        try:
            answer = method(
                call.request,
                timeout=connection.timeout(timeout_seconds, by_default=call.deadline),
                metadata=connection.metadata,
            )
            try:
                for message in answer:
                    take(call.read(message))
            finally:
                # What ``take`` raises, too, ends the call; harmless when it has ended.
                answer.cancel()
        except grpc.RpcError as error:
            connection.check()  # Closing the client ends its calls, too.
            raise off_loop(connection.explained, from_rpc_error(error)) from error
        except CLOSED_ERRORS:
            connection.check()
            raise
