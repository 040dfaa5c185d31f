"""Thousands of small collections on one server: start, descriptors, threads, idle work, first searches in cold ones.

python bench/many_collections.py [--quick] [--collections N] [--keep FOLDER]

Idle figures are taken twice: after the start, and after one search in every collection. The hashing embedder is used,
so the figures show storage and serving.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from bars import at_most, finish, percentile

from shortlist import Client, Document
from shortlist_cli.hosting.server_process import ServerProcess

START_LIMIT_SECONDS = 3.0
DESCRIPTOR_LIMIT = 300
THREAD_LIMIT = 60
CPU_LIMIT = 0.01
SEARCH_LIMIT_MS = 50.0

DOCUMENTS = 10
CALLERS = 4
ARGUMENTS = ("--embedder", "hashing")


def name_of(number: int) -> str:
    """The name of the collection with this number."""
    return f"c{number:05d}"


def fill(folder: Path, count: int) -> None:
    """Makes the missing collections, each with ten documents."""

    def make(numbers: list[int]) -> None:
        with Client(server.target) as client:
            for number in numbers:
                client.create_collection(name_of(number))
                texts = [
                    f"document {i} of collection {number} is about topic {i * number % 97}" for i in range(DOCUMENTS)
                ]
                client.ingest(
                    name_of(number), [Document(id=str(i), text=text) for i, text in enumerate(texts)]
                ).finish()

    server = ServerProcess(folder / "data", arguments=ARGUMENTS, log_path=folder / "server.log")
    try:
        with Client(server.target) as client:
            there = {collection.name for collection in client.list_collections()}
        missing = [number for number in range(count) if name_of(number) not in there]
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(make, [missing[i::CALLERS] for i in range(CALLERS)]))
    finally:
        server.stop(stop_seconds=600)


def idle(process: psutil.Process, seconds: float) -> dict[str, Any]:
    """Descriptors, threads, resident megabytes, and the share of a core in use while nobody calls."""
    before = process.cpu_times()
    begin = time.perf_counter()
    time.sleep(seconds)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    return {
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "memory_mb": round(process.memory_info().rss / 2**20),
        "cpu_share": round(used / (time.perf_counter() - begin), 4),
    }


def first_searches(target: str, numbers: list[int]) -> list[float]:
    """Milliseconds of one search in each collection, from one caller with an open connection."""
    latencies = []
    with Client(target) as client:
        client.server_info()
        for number in numbers:
            begin = time.perf_counter()
            found = client.search(name_of(number), f"topic {number % 97}")
            latencies.append((time.perf_counter() - begin) * 1000)
            assert found.hits
    return latencies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="200 collections")
    parser.add_argument("--collections", type=int, default=2000, help="how many collections")
    parser.add_argument("--keep", type=Path, help="folder to keep the server's data in, for later runs")
    options = parser.parse_args()
    count = 200 if options.quick else options.collections
    quiet_seconds = 10.0 if options.quick else 30.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        fill(folder, count)
        begin = time.perf_counter()
        server = ServerProcess(folder / "data", arguments=ARGUMENTS, log_path=folder / "server.log")
        start_seconds = time.perf_counter() - begin
        try:
            process = psutil.Process(server.process.pid)
            time.sleep(2)
            started = idle(process, quiet_seconds)
            numbers = random.Random(0).sample(range(count), count)
            cold = first_searches(server.target, numbers)
            # Pending work, such as closing collections, is done after this.
            time.sleep(15)
            searched = idle(process, quiet_seconds)
            begin = time.perf_counter()
            with Client(server.target) as client:
                listed = sum(1 for _ in client.list_collections())
            list_seconds = time.perf_counter() - begin
        finally:
            server.stop(stop_seconds=600)
    assert listed == count
    worst = {name: max(started[name], searched[name]) for name in started}
    finish(
        "many_collections",
        [
            at_most("seconds to start", start_seconds, START_LIMIT_SECONDS),
            at_most("descriptors when idle", worst["descriptors"], DESCRIPTOR_LIMIT),
            at_most("threads when idle", worst["threads"], THREAD_LIMIT),
            at_most("share of a core when idle", worst["cpu_share"], CPU_LIMIT),
            at_most("first search in a cold collection, p95 in ms", percentile(cold, 0.95), SEARCH_LIMIT_MS),
        ],
        collections=count,
        documents_each=DOCUMENTS,
        idle_after_start=started,
        idle_after_searching_all=searched,
        first_search_ms={f"p{round(100 * share)}": percentile(cold, share) for share in (0.5, 0.95, 0.99)},
        list_seconds=round(list_seconds, 3),
    )


if __name__ == "__main__":
    main()
