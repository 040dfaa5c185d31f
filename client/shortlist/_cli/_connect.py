"""A client from the options that ``_group`` adds."""

from __future__ import annotations

from typing import Any

from shortlist._channel import DEFAULT_TIMEOUT_SECONDS, Tls
from shortlist._client import Client


def connect(options: dict[str, Any]) -> Client:
    """Takes the connection's options out of a command's and returns a client."""
    ca, tls, timeout = options.pop("tls_ca"), options.pop("tls"), options.pop("timeout_seconds")
    return Client(
        options.pop("target"),
        api_key=options.pop("api_key"),
        tls=Tls(ca=ca) if ca else tls,
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout,
    )


def connect_for_long(options: dict[str, Any]) -> tuple[Client, float | None]:
    """The same for a call that takes as long as it needs; and its deadline, which is None unless it was given."""
    timeout = options["timeout_seconds"]
    return connect(options), timeout
