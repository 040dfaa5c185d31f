"""gRPC passes over an option whose name it does not know, so the names are compared with those in its library."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from shortlist import _channel
from shortlist_server.config import Config
from shortlist_server.remote import pool
from shortlist_server.rpc import transport

SIDES = {
    "server": transport.options(Config()),
    "client": _channel.channel_options(1, "name"),
    "a server's channel to its workers": pool.OPTIONS,
}


@pytest.mark.parametrize("side", SIDES)
def test_every_option_is_one_that_grpc_knows(side: str) -> None:
    library = Path(str(import_module("grpc._cython.cygrpc").__file__)).read_bytes()
    assert [name for name, _ in SIDES[side] if name.encode() + b"\0" not in library] == []


@pytest.mark.parametrize("side", sorted(SIDES.keys() - {"server"}))
def test_no_client_of_this_project_pings_as_often_as_a_server_forbids(side: str) -> None:
    options = dict(SIDES[side])
    assert options["grpc.keepalive_time_ms"] >= 2000 * transport.MIN_PING_SECONDS
    assert options["grpc.http2.max_pings_without_data"] == 0
