"""Builds of segments from a process that is warm: ``python warm.py SOCKET`` is a builder's command.

A builder takes most of its time to start. Here a process that has loaded everything already makes a fork for each
build, and the command only passes the specification and the result on: tens of builds in the time of one. A build still
ends with its command, and the command still ends as its build did.
"""

import contextlib
import os
import random
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable

BUILD_POINTS = ("build:read", "build:indexed", "build:half_written", "build:written", "build:renamed")


def serve(path: str, killed_share: float) -> None:
    """Forks the warm process, which ends with this one; some of its builds kill themselves at a crash point."""
    alive, holder = os.pipe()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    if os.fork():
        os.close(alive)
        listener.close()
        os.set_inheritable(holder, False)
        return
    os.close(holder)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    import shortlist_server.storage.compaction.builder

    while True:
        ready, _, _ = select.select([alive, listener.fileno()], [], [])
        if alive in ready:
            os._exit(0)
        connection, _ = listener.accept()
        point = random.choice(BUILD_POINTS) if random.random() < killed_share else ""
        if os.fork() == 0:
            _build(connection, shortlist_server.storage.compaction.builder.main, point)
        connection.close()


def _build(connection: socket.socket, main: Callable[[Callable[[str], None]], int], point: str) -> None:
    for descriptor in (0, 1):
        os.dup2(connection.fileno(), descriptor)
    connection.close()
    # A connection that breaks is no news; what fails is told by the socket.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)

    # A builder gives way to searches; here it shall come to its end.
    os.nice = lambda by: by

    def crash_point(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        main(crash_point)
    except BaseException as error:
        # Nobody hears of it where the command is gone, with the server that wanted the build.
        with contextlib.suppress(OSError):
            os.write(1, f"failed: {error!r}\n".encode())
    os._exit(1)


def relay(path: str) -> None:
    """The builder's command: standard input to the socket, the socket to standard output."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(sys.stdin.readline().encode())

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(3)

    threading.Thread(target=end_with_parent, daemon=True).start()
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            said += part
    os.write(1, said)
    if not said:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(said.startswith(b"failed"))


if __name__ == "__main__":
    relay(sys.argv[1])
