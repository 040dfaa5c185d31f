"""Searches at twice the capacity during an ingest: how many succeed, how fast, and how the rest end.

python bench/overload.py [--seconds 60] [--quick] [--data FOLDER]

First a few callers that never pause measure the capacity, with an ingest running. Then 64 callers offer twice that,
each on its own schedule. Afterwards single searches show how long the server takes to recover.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
from bars import at_least, at_most, finish, percentile
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from served import COLLECTION, SCIFACT, documents, queries, serving

from shortlist import Client, Document
from shortlist.v1 import search_pb2, search_service_pb2, search_service_pb2_grpc

CALLERS = 64
MEASURING_CALLERS = 8
FACTOR = 2.0
DEADLINE_SECONDS = 2.0
ALLOWED = {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}

Stub = Any


@dataclass(slots=True)
class Outcome:
    """How the calls of a phase ended."""

    latencies_ms: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    without_retry_info: int = 0


async def call(stub: Stub, text: str, outcome: Outcome) -> float:
    """One search; returns its time in seconds."""
    request = search_service_pb2.SearchRequest(collection=COLLECTION, query=search_pb2.Query(text=text))
    begin = time.perf_counter()
    try:
        await stub.Search(request, timeout=DEADLINE_SECONDS)
        outcome.codes["OK"] += 1
        outcome.latencies_ms.append((time.perf_counter() - begin) * 1000)
    except grpc.aio.AioRpcError as error:
        outcome.codes[error.code().name] += 1
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not has_retry_info(error):
            outcome.without_retry_info += 1
    return time.perf_counter() - begin


def has_retry_info(error: grpc.aio.AioRpcError) -> bool:
    """Whether a refusal carries ``RetryInfo``."""
    status = rpc_status.from_call(error)
    return status is not None and any(d.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for d in status.details)


async def load(stub: Stub, texts: Iterator[str], *, callers: int, per_second: float, seconds: float) -> Outcome:
    """Searches from ``callers`` callers for a time, ``per_second`` of all together; 0 means as fast as they can."""
    outcome = Outcome()
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        pause = callers / per_second if per_second else 0.0
        due = time.perf_counter() + pause * number / callers
        while (now := time.perf_counter()) < end:
            if pause and due > now:
                await asyncio.sleep(due - now)
            due += pause
            await call(stub, next(texts), outcome)

    await asyncio.gather(*map(caller, range(callers)))
    return outcome


async def recovery_seconds(stub: Stub, texts: Iterator[str], usual_ms: float) -> float:
    """Seconds until five searches in a row take at most twice the usual time; at most 10."""
    begin = time.perf_counter()
    good = 0
    while good < 5 and time.perf_counter() - begin < 10:
        outcome = Outcome()
        seconds = await call(stub, next(texts), outcome)
        good = good + 1 if outcome.codes["OK"] and seconds * 1000 <= 2 * usual_ms else 0
    return time.perf_counter() - begin


def keep_ingesting(target: str, corpus: Sequence[Document], stop: threading.Event) -> int:
    """Ingests documents, each with a new text, until told to stop."""

    def changed() -> Iterator[Document]:
        for turn in itertools.count():
            for document in corpus:
                if stop.is_set():
                    return
                yield Document(id=document.id, title=document.title, text=f"{turn} {document.text}")

    with Client(target) as client:
        return client.ingest(COLLECTION, changed()).finish().durable


async def run(target: str, process: psutil.Process, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Runs the phases and returns their figures."""
    # Every query text is new, so that the server's embedding cache answers none.
    fresh = (f"{text} {number}" for number, text in enumerate(itertools.cycle(texts)))
    async with grpc.aio.insecure_channel(target) as channel:
        stub = search_service_pb2_grpc.SearchServiceStub(channel)
        await load(stub, fresh, callers=MEASURING_CALLERS, per_second=0, seconds=2)
        alone = await load(stub, fresh, callers=1, per_second=0, seconds=2)
        usual_ms = percentile(alone.latencies_ms, 0.95)
        measuring = min(5.0, seconds)
        capacity = (await load(stub, fresh, callers=MEASURING_CALLERS, per_second=0, seconds=measuring)).codes["OK"]
        offered = FACTOR * capacity / measuring
        await load(stub, fresh, callers=CALLERS, per_second=offered, seconds=seconds / 4)
        before = process.memory_info().rss
        outcome = await load(stub, fresh, callers=CALLERS, per_second=offered, seconds=seconds * 3 / 4)
        recovery = await recovery_seconds(stub, fresh, usual_ms)
        grown = process.memory_info().rss - before
    return {
        "outcome": outcome,
        "capacity": capacity / measuring,
        "usual_ms": usual_ms,
        "recovery": recovery,
        "grown_mib": grown / 2**20,
        "goodput": outcome.codes["OK"] / (seconds * 3 / 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long the overload lasts")
    parser.add_argument("--quick", action="store_true", help="12 seconds")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format")
    options = parser.parse_args()
    corpus, texts = documents(options.data, 300), queries(options.data)
    stop = threading.Event()
    durable: list[int] = []
    with tempfile.TemporaryDirectory() as temporary, serving(Path(temporary), corpus) as server:
        feeding = threading.Thread(target=lambda: durable.append(keep_ingesting(server.target, corpus, stop)))
        feeding.start()
        try:
            process = psutil.Process(server.process.pid)
            found = asyncio.run(run(server.target, process, texts, 12 if options.quick else options.seconds))
        finally:
            stop.set()
            feeding.join()
    outcome, capacity = found["outcome"], found["capacity"]
    others = sum(number for code, number in outcome.codes.items() if code not in ALLOWED)
    finish(
        "overload",
        [
            at_most("p99 of answered searches, ms", percentile(outcome.latencies_ms, 0.99), 1000),
            at_least("answered a second / capacity", found["goodput"] / capacity, 0.5),
            at_most("calls that ended in any other way", others, 0),
            at_most("refusals without a time to wait", outcome.without_retry_info, 0),
            at_most("seconds until single searches are as before", found["recovery"], 2),
            at_most("growth of the server's memory, MiB", found["grown_mib"], 64),
        ],
        capacity_per_second=capacity,
        offered_per_second=FACTOR * capacity,
        answered_per_second=found["goodput"],
        codes=dict(outcome.codes),
        answered_p50_ms=percentile(outcome.latencies_ms, 0.5),
        usual_p95_ms=found["usual_ms"],
        ingested_meanwhile=sum(durable),
    )


if __name__ == "__main__":
    main()
