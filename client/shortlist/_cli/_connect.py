"""A client from the options that ``_group.client_options`` adds."""

from __future__ import annotations

from typing import Any

from shortlist._channel import Tls
from shortlist._client import Client


def connect(options: dict[str, Any]) -> Client:
    """Takes the connection's options out of a command's and returns a client."""
    ca, tls = options.pop("tls_ca"), options.pop("tls")
    return Client(
        options.pop("target"),
        api_key=options.pop("api_key"),
        tls=Tls(ca=ca) if ca else tls,
        timeout_seconds=options.pop("timeout_seconds"),
    )
