"""Attacks a server in all ways at once for minutes, and measures its health, its memory, and an honest search.

python bench/hostile.py [--seconds 600] [--quick]

The server is a process of its own, on loopback. The attackers run in another process, some with a key and some without.
They send messages of millions of elements or filters, compressed to kilobytes; requests whose answers they never take;
searches for a sequence that never comes; batches with too large answers; floods of connections; and watches and probes
of the health service. They pause between rounds, so that the server is measured and not the machine.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import grpc
import psutil
from bars import at_least, at_most, finish, percentile
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http2 import ENDED, Connection

from shortlist import Client, CollectionConfig, Document, ShortlistError
from shortlist.v1 import document_service_pb2, search_pb2, search_service_pb2
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.keys import Scope, new_key

SEARCH = "/shortlist.v1.SearchService/Search"
BATCH_SEARCH = "/shortlist.v1.SearchService/BatchSearch"
LIST = "/shortlist.v1.DocumentService/List"
WATCH = "/grpc.health.v1.Health/Watch"
CHECK = "/grpc.health.v1.Health/Check"

TRACEBACK = "Traceback (most recent call last)"
TEXTS, LARGE = "texts", "large"
HOSTILE_ADDRESS = "127.0.0.2"
"""Address of the attackers; honest callers have another address and another key."""

ELEMENTS = 16_000_000
UNREADING = 10
FLOOD = 300
WATCHES = 3_000
PROBES = 100

Round = Callable[["Attack"], None]


class Attack:
    """One kind of attack: a thread that repeats its round until time is up."""

    def __init__(self, target: str, key: str, over: threading.Event, codes: Counter[str]) -> None:
        self.target, self.key = target, key
        self.over = over
        self._codes = codes

    def pause(self, seconds: float) -> None:
        """Waits, at most until time is up."""
        self.over.wait(seconds)

    def count(self, name: str, statuses: dict[str, int]) -> None:
        """Counts how calls ended."""
        for status, number in statuses.items():
            self._codes[f"{name} {status}"] += number

    def send(self, name: str, method: str, message: bytes, *, key: str, times: int = 4) -> None:
        """Sends compressed bytes in several calls at once, and counts how the calls end."""
        connection = Connection(self.target, source=HOSTILE_ADDRESS, key=key)
        try:
            for _ in range(times):
                connection.call(method, message, compressed=True)
            end = time.monotonic() + 20
            while sum(connection.statuses.values()) < times and time.monotonic() < end and connection.read(1.0):
                pass
        finally:
            self.count(name, connection.statuses)
            connection.close()


def empty_searches(attack: Attack) -> None:
    """Batches of sixteen million empty searches, without a key and with one."""
    message = gzip.compress(b"\n\0" * ELEMENTS)
    while not attack.over.is_set():
        attack.send("searches, no key", BATCH_SEARCH, message, key="")
        attack.send("searches", BATCH_SEARCH, message, key=attack.key)
        attack.pause(0.5)


def empty_filters(attack: Attack) -> None:
    """Searches whose filter has millions of conditions."""
    inner = b"\n\0" * (ELEMENTS - 100)
    outer = b"\n" + varint(len(inner)) + inner
    request = search_service_pb2.SearchRequest(collection=TEXTS, query=search_pb2.Query(text="owls"))
    message = gzip.compress(request.SerializeToString() + b"\x4a" + varint(len(outer)) + outer)
    while not attack.over.is_set():
        attack.send("filters", SEARCH, message, key=attack.key)
        attack.pause(0.5)


def unread_answers(attack: Attack) -> None:
    """Lists, again and again, over connections that open no window."""
    request = document_service_pb2.ListRequest(collection=LARGE).SerializeToString()
    while not attack.over.is_set():
        connections = [
            Connection(attack.target, source=HOSTILE_ADDRESS, window=0, key=attack.key) for _ in range(UNREADING)
        ]
        for _ in range(20):
            if attack.over.is_set():
                break
            for connection in connections:
                with suppress(*ENDED):
                    for _ in range(10):
                        connection.call(LIST, request)
                    connection.read(0.05)
            attack.pause(1.0)
        for connection in connections:
            attack.count("unread lists", connection.statuses)
            connection.close()


def unread_probes(attack: Attack) -> None:
    """Probes and watches the health service and takes no answer."""
    while not attack.over.is_set():
        connection = Connection(attack.target, source=HOSTILE_ADDRESS, window=0)
        with suppress(*ENDED):
            for _ in range(PROBES):
                connection.call(CHECK, b"")
            end = time.monotonic() + 8
            while connection.read(0.5) and time.monotonic() < end and not attack.over.is_set():
                pass
        attack.count("unread probes", connection.statuses)
        connection.close()


def watches(attack: Attack) -> None:
    """Thousands of watches without a key."""
    while not attack.over.is_set():
        connections = [Connection(attack.target, source=HOSTILE_ADDRESS) for _ in range(10)]
        for connection in connections:
            with suppress(*ENDED):
                for _ in range(WATCHES // len(connections)):
                    connection.call(WATCH, b"")
                connection.read(0.2)
            attack.pause(0.5)
        attack.pause(3.0)
        for connection in connections:
            with suppress(*ENDED):
                connection.read(0.05)
            attack.count("watches", connection.statuses)
            connection.close()


def far_sequences(attack: Attack) -> None:
    """Searches that wait for a sequence nobody commits, some of them far beyond any possible one."""
    connection = Connection(attack.target, source=HOSTILE_ADDRESS, key=attack.key)
    while not attack.over.is_set():
        with suppress(*ENDED):
            for sequence in (10**9, 10**6) * 8:
                query = search_pb2.Query(text="owls")
                request = search_service_pb2.SearchRequest(collection=TEXTS, query=query, min_sequence=sequence)
                connection.call(SEARCH, request.SerializeToString())
            connection.read(0.1)
        attack.pause(0.5)
    attack.count("sequences", connection.statuses)
    connection.close()


def large_batches(attack: Attack) -> None:
    """Batches whose answers are ten times as large as the largest message."""
    query = search_pb2.Query(vector=[1.0])
    search = search_service_pb2.SearchRequest(collection=LARGE, query=query, limit=8)
    message = search_service_pb2.BatchSearchRequest(requests=[search] * 100).SerializeToString()
    while not attack.over.is_set():
        connection = Connection(attack.target, source=HOSTILE_ADDRESS, key=attack.key)
        with suppress(*ENDED):
            connection.call(BATCH_SEARCH, message)
            end = time.monotonic() + 20
            while not connection.statuses and time.monotonic() < end and connection.read(1.0):
                pass
        attack.count("large batches", connection.statuses)
        connection.close()
        attack.pause(1.0)


def connections(attack: Attack) -> None:
    """Hundreds of connections that send nothing, or half a preface."""
    host, _, port = attack.target.rpartition(":")
    while not attack.over.is_set():
        sockets = []
        for number in range(FLOOD):
            with suppress(OSError):
                one = socket.create_connection((host, int(port)), timeout=5)
                sockets.append(one)
                if number % 2:
                    one.sendall(b"PRI * HTTP/2.0\r\n")
        attack.pause(3.0)
        for one in sockets:
            one.close()
        attack.count("connections", {"opened": len(sockets)})
        attack.pause(1.0)


ATTACKS = (
    empty_searches,
    empty_filters,
    unread_answers,
    unread_probes,
    watches,
    far_sequences,
    large_batches,
    connections,
)


def attack_all(target: str, key: str, names: Sequence[str], seconds: float, pipe: Pipe) -> None:
    """Runs the named attacks for a time, each in a thread; sends the counts of how their calls ended."""
    # Low priority: on a small machine the server and the honest callers go first.
    os.nice(10)
    over, codes = threading.Event(), Counter[str]()

    def repeat(make_rounds: Round) -> None:
        while not over.is_set():
            with suppress(*ENDED):
                make_rounds(Attack(target, key, over, codes))
            over.wait(0.2)

    threads = [threading.Thread(target=repeat, args=(one,)) for one in ATTACKS if one.__name__ in names]
    for thread in threads:
        thread.start()
    over.wait(seconds)
    over.set()
    for thread in threads:
        thread.join(30)
    pipe.send(dict(codes))


class Watcher:
    """Measures, while the block runs, health checks, an honest caller's searches, and the server's memory."""

    def __init__(self, target: str, key: str, process: psutil.Process) -> None:
        self.health_seconds: list[float] = []
        self.search_seconds: list[float] = []
        self.failures: Counter[str] = Counter()
        self.peak_bytes = 0
        self._target, self._key, self._process = target, key, process
        self._over = threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._probe, self._search, self._weigh)]

    def __enter__(self) -> Watcher:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _probe(self) -> None:
        with grpc.insecure_channel(self._target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self._over.wait(0.05):
                begin = time.perf_counter()
                try:
                    stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
                except grpc.RpcError as error:
                    self.failures[f"health {error.code().name}"] += 1
                self.health_seconds.append(time.perf_counter() - begin)

    def _search(self) -> None:
        number = 0
        with Client(self._target, api_key=self._key) as client:
            while not self._over.wait(0.1):
                number += 1
                begin = time.perf_counter()
                try:
                    assert client.search(TEXTS, f"owl number {number}").hits
                except ShortlistError as error:
                    self.failures[f"search {type(error).__name__}"] += 1
                self.search_seconds.append(time.perf_counter() - begin)

    def _weigh(self) -> None:
        while not self._over.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[ServerProcess, str, str]]:
    """Runs a server with keys and documents that make large answers; yields it, the honest and the attackers' key."""
    honest, entry = new_key("honest", list(Scope))
    hostile, hostile_entry = new_key("hostile", [Scope.READ])
    arguments = ["--embedder", "hashing", "--max-concurrent-rpcs-per-caller", "64"]
    for key in (entry, hostile_entry):
        arguments += ["--api-key", key.entry()]
    server = ServerProcess(folder / "data", arguments=arguments, log_path=folder / "server.log")
    try:
        with Client(server.target, api_key=honest) as client:
            client.create_collection(TEXTS)
            client.ingest(TEXTS, [Document(id=str(i), text=f"owl number {i} of many") for i in range(500)]).finish()
            client.create_collection(LARGE, CollectionConfig(embedder="none", dimension=1))
            large = [Document(id=str(i), text="x" * 500_000, vector=[1.0]) for i in range(20)]
            client.ingest(LARGE, large).finish()
        yield server, honest, hostile
    finally:
        server.stop()


def varint(value: int) -> bytes:
    """A number in protobuf's varint encoding."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def run(folder: Path, names: Sequence[str], seconds: float) -> tuple[Watcher, int, dict[str, Any]]:
    """Attacks a server and watches it; returns the watcher, the idle memory, and further figures."""
    context = multiprocessing.get_context("spawn")
    with serving(folder) as (server, honest, hostile):
        process = psutil.Process(server.process.pid)
        with Watcher(server.target, honest, process):
            time.sleep(3)
        idle = process.memory_info().rss
        ours, theirs = context.Pipe()
        attacking = context.Process(target=attack_all, args=(server.target, hostile, names, seconds, theirs))
        begin, used = time.perf_counter(), sum(process.cpu_times()[:2])
        with Watcher(server.target, honest, process) as watcher:
            attacking.start()
            codes = ours.recv() if ours.poll(seconds + 120) else {}
            attacking.join(30)
            if attacking.is_alive():
                attacking.kill()
        code = server.process.poll()
        assert code is None, f"the server has ended ({code}): " + (folder / "server.log").read_text()[-5000:]
        cores = (sum(process.cpu_times()[:2]) - used) / (time.perf_counter() - begin)
    return watcher, idle, {"attackers_calls": codes, "server_cores": cores, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long the attacks last")
    parser.add_argument("--quick", action="store_true", help="half a minute")
    known = [one.__name__ for one in ATTACKS]
    parser.add_argument("--attack", action="append", choices=known, help="only this attack; repeatable")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        watcher, idle, figures = run(folder, options.attack or known, 25 if options.quick else options.seconds)
        log = (folder / "server.log").read_text(errors="replace")
    if TRACEBACK in log:
        sys.stderr.write(log[-20_000:])
    unanswered = sum(number for name, number in watcher.failures.items() if name.startswith("search"))
    finish(
        "hostile",
        [
            at_most("longest health check, s", max(watcher.health_seconds), 0.5),
            at_most("health checks that failed", watcher.failures.total() - unanswered, 0),
            at_most("growth of the server's memory over idle, MiB", (watcher.peak_bytes - idle) / 2**20, 300),
            at_most("tracebacks in the server's log", log.count(TRACEBACK), 0),
            at_least("honest searches answered, share", 1 - unanswered / len(watcher.search_seconds), 1.0),
        ],
        health_p50_ms=percentile(watcher.health_seconds, 0.5) * 1000,
        health_p99_ms=percentile(watcher.health_seconds, 0.99) * 1000,
        health_checks=len(watcher.health_seconds),
        search_p50_ms=percentile(watcher.search_seconds, 0.5) * 1000,
        search_p99_ms=percentile(watcher.search_seconds, 0.99) * 1000,
        searches=len(watcher.search_seconds),
        idle_mib=idle / 2**20,
        failures=dict(watcher.failures),
        log_bytes=len(log),
        **figures,
    )


if __name__ == "__main__":
    main()
