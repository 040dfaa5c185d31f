"""Hangs up: closes a server's port and connections in such a way that callers repeat what was not served.

gRPC's own stop cancels the calls that reached the server but not their handler, and those that arrive before their
client has read the GOAWAY. Their callers see CANCELLED, as if they had cancelled the calls themselves, and do not
repeat them. When a connection closes, its calls end with UNAVAILABLE, which callers repeat elsewhere. gRPC offers
no way to close a connection, so the sockets are found among the process's descriptors (``/dev/fd``: Linux, macOS).
Called by the composition roots, on the server's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0
"""Longest wait for gRPC to close its ends of the connections; it takes about a millisecond."""

POLL_SECONDS = 0.002

UNIX = "unix:"


async def hang_up(listen: str, port: int) -> None:
    """Closes a server's port and every connection to it; what was written to a connection still reaches its peer.

    Calls under way end with UNAVAILABLE at their callers, so wait first for those that shall finish. When this returns,
    gRPC takes no call from these connections any more.

    Args:
        listen: the address that was listened on, as in ``Config.listen``.
        port: the port that was taken; unused for a Unix socket.
    """
    path = listen.removeprefix(UNIX).removeprefix("//") if listen.startswith(UNIX) else None
    end = asyncio.get_running_loop().time() + CLOSE_SECONDS
    while asyncio.get_running_loop().time() < end:
        connections = 0
        for one in _own_sockets(path, port):
            # Its peer or gRPC may have closed it already.
            with contextlib.suppress(OSError):
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    _take_place(one)
                    continue
                connections += 1
                one.shutdown(socket.SHUT_RDWR)
        if not connections:
            return
        await asyncio.sleep(POLL_SECONDS)
    logger.warning("connections are still open after %g s; their calls may end as cancelled", CLOSE_SECONDS)


def _take_place(listener: socket.socket) -> None:
    """Closes a listening socket and puts an idle one in its place.

    gRPC goes on to own the descriptor. A shutdown would do too, but gRPC would log it as a failure to accept.
    """
    with socket.socket(listener.family) as idle:
        os.dup2(idle.fileno(), listener.fileno(), inheritable=False)


def _own_sockets(path: str | None, port: int) -> Iterator[socket.socket]:
    """The process's sockets that are bound to this address; each is gRPC's again when the next is asked for."""
    try:
        names = [entry.name for entry in Path("/dev/fd").iterdir()]
    except OSError:
        names = []
    for name in names:
        # Passes over a descriptor that is no socket, or that another thread closed meanwhile.
        with contextlib.suppress(OSError):
            one = socket.socket(fileno=int(name))
            try:
                bound = one.getsockname()
                ours = bound == path if path is not None else isinstance(bound, tuple) and bound[1:2] == (port,)
                if ours and one.type == socket.SOCK_STREAM:
                    yield one
            finally:
                one.detach()
