"""How both clients connect: channel options, retries, credentials, deadlines, and the checks before a call.

Nothing here opens a connection. A ``Connection`` is immutable but for being closed, and may be used from any thread.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from shortlist._errors import ClientClosed, InvalidArgument, ServerUnavailable, ShortlistError, UsedAfterFork
from shortlist._target import checked_target
from shortlist._unreachable import why_unreachable

DEFAULT_TARGET = "localhost:50051"
"""Address of a server with default settings on this machine."""

DEFAULT_TIMEOUT_SECONDS = 30.0
"""Default deadline of a unary call."""

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Largest message sent or received; the server's default too."""

KEEPALIVE_SECONDS = 30.0
"""Time between pings on a connection with a call in progress. The server permits pings six times as often."""

KEEPALIVE_TIMEOUT_SECONDS = 15.0
"""A connection whose ping is not answered for this long is broken."""

CONNECT_SECONDS = 5
"""Time for one attempt to connect, TLS handshake included."""

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}

REPEATED_METHODS = {
    "shortlist.v1.SearchService": ("Search", "BatchSearch"),
    "shortlist.v1.DocumentService": (
        "Get",
        "Delete",
        "List",
        "Count",
        "ListDeadLetters",
        "RetryDeadLetters",
        "DeleteDeadLetters",
    ),
    "shortlist.v1.CollectionService": (
        "CreateCollection",
        "GetCollection",
        "ListCollections",
        "UpdateCollection",
        "DeleteCollection",
        "StartReindex",
        "ListGenerations",
        "CompareGenerations",
        "SwitchGeneration",
        "RollBackGeneration",
        "DropGeneration",
    ),
    "shortlist.v1.AdminService": (
        "GetServerInfo",
        "GetRecall",
        "Verify",
        "Backup",
        "ListBackups",
        "Restore",
        "Evaluate",
        "StartModelUpload",
        "UploadModelChunk",
        "PublishModel",
        "ListModels",
        "GetModel",
        "UpdateModelCard",
        "DeleteModel",
    ),
    "shortlist.v1.OperationService": (
        "GetOperation",
        "ListOperations",
        "CancelOperation",
        "PauseOperation",
        "ResumeOperation",
        "WaitOperation",
    ),
}
"""Methods that gRPC repeats by itself while the server is unavailable. They only read, or are idempotent, or carry a
request id, so that the server does a repeated call once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How to encrypt the connection and identify the server.

    Attributes:
        ca: PEM file of the authorities to trust; the system's when None.
        certificate, key: PEM files to show to a server that asks for a client certificate; both or neither.
        server_name: name in the server's certificate, when it is not the host of the target.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None


class Connection:
    """The settings of a client and the checks before each of its calls."""

    def __init__(
        self,
        target: str,
        *,
        timeout_seconds: float,
        api_key: str | None,
        tls: bool | Tls,
        credentials: grpc.ChannelCredentials | None,
        max_message_bytes: int,
    ) -> None:
        if credentials is not None and tls:
            raise InvalidArgument("give tls or credentials, not both", field="credentials")
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidArgument("has a line break or another character that no API key has", field="api_key")
        self.target = checked_target(target)
        self.timeout_seconds = checked_timeout(timeout_seconds)
        self.metadata: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        tls_settings = tls if isinstance(tls, Tls) else Tls()
        self.credentials = credentials or (_tls_credentials(tls_settings) if tls else None)
        self._shows_certificate = tls_settings.certificate is not None
        self.options = channel_options(max_message_bytes, tls_settings.server_name)
        self.max_message_bytes = max_message_bytes
        self.closed = False
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that made the client."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises the error that forbids a call.

        Raises:
            ClientClosed: the client was closed.
            UsedAfterFork: this process is a fork of the one that made the client.
        """
        if self.forked:
            raise UsedAfterFork(
                f"this client was made in process {self._pid}, and gRPC connections do not survive a fork: "
                "make a client in the child process, or start it by spawning"
            )
        if self.closed:
            raise ClientClosed("this client is closed; make a new one")

    def timeout(self, seconds: float | None, *, by_default: bool = True) -> float | None:
        """The deadline of a call in seconds: the given one, else its default, which is the client's or none."""
        if seconds is None:
            return self.timeout_seconds if by_default else None
        return checked_timeout(seconds)

    def explained(self, error: ShortlistError) -> ShortlistError:
        """The error of a failed call. If no server was found, it says why and what to do. Blocks for a moment."""
        if not isinstance(error, ServerUnavailable):
            return error
        why = why_unreachable(
            error.details,
            self.target,
            encrypted=self.credentials is not None,
            shows_certificate=self._shows_certificate,
        )
        return ServerUnavailable(why, code=error.code, details=error.details) if why else error

    def unavailable(self, seconds: float, cause: ShortlistError | None) -> ServerUnavailable:
        """The error of a server that did not become ready."""
        last = f": {cause.message}" if cause is not None else ""
        return ServerUnavailable(f"the server at {self.target} was not ready within {seconds:g} s{last}")


class ReadyWait:
    """The schedule of a wait for the server: when to ask again, when to give up. Belongs to one thread."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + checked_timeout(seconds)
        self._pause = 0.02
        self.error: ShortlistError | None = None

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._until

    def call_seconds(self) -> float:
        """Deadline of the next question."""
        return max(0.001, min(5.0, self._until - time.monotonic()))

    def pause_seconds(self) -> float:
        """Time to wait before the next question; grows."""
        self._pause = min(1.0, self._pause * 1.5)
        return max(0.0, min(self._pause, self._until - time.monotonic()))


def checked_timeout(seconds: float) -> float:
    """The timeout, if it is a positive number."""
    if not 0 < seconds < float("inf"):
        raise InvalidArgument("must be a positive number of seconds", field="timeout_seconds")
    return float(seconds)


def channel_options(max_message_bytes: int, server_name: str | None) -> list[tuple[str, Any]]:
    """The channel options of both clients."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", round(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", round(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", CONNECT_SECONDS * 1000),
        ("grpc.max_reconnect_backoff_ms", 5000),
        # A global subchannel pool would share connections, and their backoff, between unrelated clients.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", service_config()),
    ]
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


def service_config() -> str:
    """The channel's retry rules, as gRPC's JSON."""
    names = [
        {"service": service, "method": method} for service, methods in REPEATED_METHODS.items() for method in methods
    ]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}]})


def _tls_credentials(tls: Tls) -> grpc.ChannelCredentials:
    if (tls.certificate is None) != (tls.key is None):
        raise InvalidArgument("a client certificate needs its key, and a key its certificate", field="tls")
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca, "tls.ca"),
        private_key=_read(tls.key, "tls.key"),
        certificate_chain=_read(tls.certificate, "tls.certificate"),
    )


def _read(path: Path | str | None, field: str) -> bytes | None:
    if path is None:
        return None
    data = Path(path).read_bytes()
    if b"-----BEGIN " not in data:
        # gRPC would say that nothing answers at the target.
        raise InvalidArgument(f"{path} is no PEM file", field=field)
    return data
