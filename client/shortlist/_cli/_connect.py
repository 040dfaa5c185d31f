"""A client from the options that ``_group`` adds."""

from __future__ import annotations

from typing import Any

from shortlist._channel import DEFAULT_TIMEOUT_SECONDS, Tls
from shortlist._client import Client

TLS_OPTIONS = {
    "ca": "tls_ca",
    "certificate": "client_certificate",
    "key": "client_key",
    "server_name": "tls_server_name",
}
"""The options of TLS by the attribute of ``Tls`` they set; any of them encrypts."""


def connect(options: dict[str, Any]) -> Client:
    """Takes the connection's options out of a command's and returns a client."""
    tls, timeout = options.pop("tls"), options.pop("timeout_seconds")
    chosen = {name: options.pop(option, None) for name, option in TLS_OPTIONS.items()}
    return Client(
        options.pop("target"),
        api_key=options.pop("api_key"),
        tls=Tls(**chosen) if any(chosen.values()) else tls,
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout,
    )


def connect_for_long(options: dict[str, Any]) -> tuple[Client, float | None]:
    """The same for a call that takes as long as it needs; and its deadline, which is None unless it was given."""
    timeout = options["timeout_seconds"]
    return connect(options), timeout
