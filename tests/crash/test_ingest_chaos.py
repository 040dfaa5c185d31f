"""An ingest through everything that goes wrong: killed servers, killed clients, and a network that cuts and stalls.

When it ends, every document is there exactly once, was written once, and the client knows of each what became of it.
SHORTLIST_CHAOS_ROUNDS and SHORTLIST_CHAOS_DOCUMENTS set how much; each round has its own seed, its number.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortlist import Client, Include
from shortlist_cli.hosting.server_process import ServerProcess

CLIENT = Path(__file__).with_name("chaos_client.py")

BAD_EVERY = 500
"""As the client program has it."""

ROUNDS = int(os.environ.get("SHORTLIST_CHAOS_ROUNDS", "5"))
DOCUMENTS = int(os.environ.get("SHORTLIST_CHAOS_DOCUMENTS", "10000"))

CHAOS_SECONDS = 8.0
"""After this the world calms down, so that a round ends."""

LIMIT_SECONDS = 80.0


class Proxy:
    """Forwards connections on loopback to one port, and can break, delay and hold them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.delay_seconds = 0.0
        self.flowing = threading.Event()
        self.flowing.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Breaks every connection with a reset; what was in the buffers is lost."""
        with self._lock:
            doomed, self._sockets = self._sockets, set()
        for sock in doomed:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        """Takes no more connections and breaks those there are."""
        self._listener.close()
        self.flowing.set()
        self.reset()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                outer.settimeout(None)
            except OSError:
                inner.close()
                continue
            with self._lock:
                self._sockets |= {inner, outer}
            for source, sink in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                time.sleep(self.delay_seconds)
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class Scene:
    """The server, the proxy and the client of one round, and what can be done to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.acks = folder / "acks"
        self.done: list[str] = []
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server = self._serve()
        self.proxy = Proxy(self.port)
        with Client(self.server.target) as client:
            client.create_collection("chaos")
        self.client = self._ingest()

    def _serve(self) -> ServerProcess:
        return ServerProcess(
            self._folder / "data",
            arguments=["--embedder", "hashing"],
            listen=f"127.0.0.1:{self.port}",
            log_path=self._folder / "server.log",
            start_seconds=60,
        )

    def _ingest(self) -> subprocess.Popen[bytes]:
        arguments = [self.proxy.target, str(DOCUMENTS), str(self._folder / "checkpoint"), str(self.acks)]
        with (self._folder / "client.log").open("ab") as log:
            return subprocess.Popen([sys.executable, str(CLIENT), *arguments], stderr=log)

    def disturb(self) -> None:
        """One thing goes wrong."""
        what = self.random.choice([self.cut, self.cut, self.delay, self.stall, self.kill_server, self.kill_client])
        self.done.append(what.__name__)
        what()

    def cut(self) -> None:
        self.proxy.reset()

    def delay(self) -> None:
        self.proxy.delay_seconds = self.random.choice([0.0, 0.02, 0.1])

    def stall(self) -> None:
        self.proxy.flowing.clear()
        time.sleep(self.random.uniform(0.1, 0.5))  # How long it stalls.
        if self.random.random() < 0.5:
            self.proxy.reset()
        self.proxy.flowing.set()

    def kill_server(self) -> None:
        if self.random.random() < 0.3:
            self.server.stop()
        else:
            self.server.kill()
        time.sleep(self.random.uniform(0.0, 0.3))  # How long it is away.
        self.server = self._serve()

    def kill_client(self) -> None:
        # A client that has ended by itself is left to the caller to look at.
        if self.client.poll() is None:
            self.client.kill()
            self.client.wait()
            self.client = self._ingest()

    def close(self) -> None:
        self.proxy.close()
        if self.client.poll() is None:
            self.client.kill()
        self.client.wait()
        self.server.stop()


@contextlib.contextmanager
def playing(folder: Path, seed: int) -> Iterator[Scene]:
    scene = Scene(folder, seed)
    try:
        yield scene
    finally:
        scene.close()


def statuses(path: Path) -> dict[int, list[str]]:
    """What each operation was told, over all clients; the last line of a killed one may be cut."""
    told: dict[int, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        index, id, status = line.split()
        assert id == f"d{index}"
        told[int(index)].append(status)
    return told


@pytest.mark.crash
@pytest.mark.timeout(LIMIT_SECONDS + 60)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_every_document_is_there_once_whatever_happened(seed: int, tmp_path: Path) -> None:
    with playing(tmp_path, seed) as scene:
        begun = time.monotonic()
        while scene.client.poll() is None:
            assert time.monotonic() - begun < LIMIT_SECONDS, scene.done
            time.sleep(scene.random.uniform(0.05, 0.5))  # A random moment.
            if time.monotonic() - begun < CHAOS_SECONDS:
                scene.disturb()
        assert scene.client.returncode == 0, ((tmp_path / "client.log").read_text(), scene.done)

        bad = set(range(BAD_EVERY - 1, DOCUMENTS, BAD_EVERY))
        good = set(range(DOCUMENTS)) - bad
        told = statuses(scene.acks)
        assert told.keys() == good | bad
        assert not [index for index in good if "failed" in told[index]]
        # The ack of a failure may break with its connection; the replay is answered as the failure it was.
        assert not [index for index in bad if set(told[index]) != {"failed"}]
        assert not [index for index in good if told[index].count("durable") > 1]

        with Client(scene.server.target) as client:
            stored = [document.metadata["number"] for document in client.list("chaos", include=Include(text=False))]
            assert sorted(stored) == sorted(good)
            # Each document took one number of the collection's sequence: none was written twice.
            assert client.get_collection("chaos").sequence == len(good)
