"""What the client makes of gRPC's words when a connection fails slowly; ``tests/client/e2e`` has the quick ways."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from shortlist._unreachable import why_unreachable

NONE = "failed to connect to all addresses; last error: UNKNOWN: "


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a listener that answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("last", "encrypted", "message"),
    [
        ("Failed to connect to remote host: connect() timed out", False, "nothing answers at {at}: .*firewall"),
        ("tcp handshaker shutdown", False, "nothing answers at {at}"),
        ("Failed to connect to remote host: getsockopt(SO_ERROR): Network is unreachable", True, "nothing answers"),
        ("connection attempt timed out before receiving SETTINGS frame", False, "what listens at {at} is no gRPC"),
        ("Handshake read failed (Endpoint closing)", True, "what listens at {at} does not answer TLS"),
        ("something that nobody has seen before", False, "no server can be reached at {at}: .*nobody has seen"),
    ],
)
def test_a_connection_that_nobody_answers_is_told_apart(
    silent: str, last: str, encrypted: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shortlist._unreachable.PROBE_SECONDS", 0.1)
    details = f"{NONE}ipv4:{silent}: {last}"
    found = why_unreachable(details, silent, encrypted=encrypted, shows_certificate=False)
    assert re.search(message.format(at=silent), found), found


def test_a_connection_that_broke_later_is_another_matter() -> None:
    assert why_unreachable("Socket closed", "a:1", encrypted=False, shows_certificate=False) == ""
