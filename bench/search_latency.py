"""Search latency through gRPC from another process, against the unavoidable: the model's run and the transport.

python bench/search_latency.py [--quick] [--data FOLDER] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import grpc.aio
from bars import at_most, finish
from served import SCIFACT, documents, queries, search_all, serving

from shortlist_server.config import DEFAULT_EMBEDDER, Config
from shortlist_server.inference.base import Embedder, QueryText
from shortlist_server.inference.catalog import bundled_minilm
from shortlist_server.inference.loading import load_embedder

LIMIT = 3.0
ROUNDS = 3


def echo_server(pipe: Connection) -> None:
    """A gRPC server whose one method echoes its request; runs until the pipe ends it."""

    async def serve() -> None:
        async def echo(request: bytes, context: object) -> bytes:
            return request

        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await server.stop(None)

    asyncio.run(serve())


def echo_ms(port: int, calls: int) -> float:
    """Median time of an echo, in milliseconds."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bench.Echo/Echo")
        method(b"x")
        return timed_ms(lambda _: method(b"x" * 200), ["x"] * calls)


def timed_ms(call: Callable[[str], object], texts: Sequence[str]) -> float:
    """Median time of a call over the texts, in milliseconds."""
    times = []
    for text in texts:
        begin = time.perf_counter()
        call(text)
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def model_ms(engine: Embedder, texts: Sequence[str]) -> float:
    """Median time of embedding a query with the server's engine, without queue or cache."""
    return timed_ms(lambda text: engine.embed_queries([QueryText(text=text)]), texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer documents and queries")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format")
    parser.add_argument("--keep", type=Path, help="folder to keep the server's data in, for later runs")
    options = parser.parse_args()
    corpus = documents(options.data, 300 if options.quick else None)
    texts = queries(options.data)
    each = 30 if options.quick else 150
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        echo = multiprocessing.get_context("spawn").Process(target=echo_server, args=(theirs,))
        echo.start()
        port = ours.recv()
        ratios, p50s, floors = [], [], []
        with serving(folder, corpus) as server:
            search_all(server.target, texts[-40:])
            engine = load_embedder(DEFAULT_EMBEDDER, bundled_minilm(), "", Config(data_dir=folder / "data"))
            model_ms(engine, texts[-40:])
            for i in range(ROUNDS):
                part = texts[i * each : (i + 1) * each]
                alone = search_all(server.target, part)
                # The same texts, because the model's time depends on the length of a query.
                floor = model_ms(engine, part) + echo_ms(port, each)
                ratios.append(alone.at(0.5) / floor)
                p50s.append(alone.at(0.5))
                floors.append(floor)
            together = search_all(server.target, texts[ROUNDS * each : ROUNDS * each + 16 * each // 4], callers=16)
        ours.send(None)
        echo.join()
    finish(
        "search_latency",
        [at_most("search p50 / (bare model + bare echo)", statistics.median(ratios), LIMIT)],
        documents=len(corpus),
        p50_ms=statistics.median(p50s),
        bare_ms=statistics.median(floors),
        p99_ms=alone.at(0.99),
        callers_16={"p50_ms": together.at(0.5), "p99_ms": together.at(0.99), "per_second": together.per_second},
    )


if __name__ == "__main__":
    main()
