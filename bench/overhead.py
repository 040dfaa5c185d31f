"""The cost of authorisation, limits and metrics in a search: the full server against its bare pipeline behind gRPC.

python bench/overhead.py [--quick] [--data FOLDER]

Both serve the same collection at the same time. Every query goes to both, in alternating order, so that other load on
the machine disturbs both. Tracing is off; the full server has API keys and serves metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc.aio
from bars import at_most, finish
from served import COLLECTION, SCIFACT, documents, queries, serving
from threadpoolctl import threadpool_limits

from shortlist import Client
from shortlist.v1 import search_service_pb2
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.config import Config
from shortlist_server.inference.catalog import load_models
from shortlist_server.keys import Scope, new_key
from shortlist_server.observe.observer import Observer
from shortlist_server.pipeline.search import Searcher
from shortlist_server.process import SWITCH_SECONDS
from shortlist_server.rpc import transport
from shortlist_server.rpc.limits import LimitInterceptor
from shortlist_server.rpc.search_service import SearchServicer
from shortlist_server.storage.store import open_store

LIMIT = 0.05


def bare_server(folder: Path, pipe: Connection) -> None:
    """Serves searches without interceptors, metrics or keys, until the pipe ends it."""

    # The setting of the server's own process.
    sys.setswitchinterval(SWITCH_SECONDS)

    async def serve() -> None:
        config = Config(data_dir=folder)
        models, store = load_models(config), open_store(config)
        searcher = Searcher(store, models, ThreadPoolExecutor(8), Observer())
        # Without interceptors, gRPC itself parses the requests.
        server = grpc.aio.server(options=transport.options(config))
        limits = LimitInterceptor(config)
        servicer = SearchServicer(searcher, config, limits.queue, limits.waits)
        # The servicer answers with bytes.
        search: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            servicer.Search, search_service_pb2.SearchRequest.FromString, response_serializer=None
        )
        handler = grpc.method_handlers_generic_handler("shortlist.v1.SearchService", {"Search": search})
        server.add_generic_rpc_handlers((handler,))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await server.stop(None)
        store.close()
        models.close()

    with threadpool_limits(limits=1, user_api="blas"):
        asyncio.run(serve())


def search_ms(client: Client, text: str) -> float:
    """Time of one search, in milliseconds."""
    begin = time.perf_counter()
    client.search(COLLECTION, text)
    return (time.perf_counter() - begin) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer documents and queries")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format")
    options = parser.parse_args()
    texts = queries(options.data)[: 200 if options.quick else 900]
    corpus = documents(options.data, 200 if options.quick else 1000)
    secret, key = new_key("bench", [Scope.READ])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with serving(folder, corpus):
            pass
        shutil.copytree(folder / "data", folder / "bare")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        child = multiprocessing.get_context("spawn").Process(target=bare_server, args=(folder / "bare", theirs))
        child.start()
        full = ServerProcess(
            folder / "data",
            arguments=["--api-key", key.entry(), "--metrics-listen", "127.0.0.1:0"],
            log_path=folder / "log",
        )
        try:
            bare_ms, full_ms = [], []
            with Client(f"127.0.0.1:{ours.recv()}") as bare, Client(full.target, api_key=secret) as guarded:
                for text in texts[:30]:
                    search_ms(bare, text)
                    search_ms(guarded, text)
                for i, text in enumerate(texts[30:]):
                    if i % 2:
                        bare_ms.append(search_ms(bare, text))
                        full_ms.append(search_ms(guarded, text))
                    else:
                        full_ms.append(search_ms(guarded, text))
                        bare_ms.append(search_ms(bare, text))
        finally:
            full.stop()
            ours.send(None)
            child.join()
    bare_p50, full_p50 = statistics.median(bare_ms), statistics.median(full_ms)
    finish(
        "overhead",
        [at_most("share of search p50 that guarding and watching add", full_p50 / bare_p50 - 1, LIMIT)],
        bare_p50_ms=bare_p50,
        full_p50_ms=full_p50,
        median_difference_ms=statistics.median(a - b for a, b in zip(full_ms, bare_ms, strict=True)),
        searches=len(full_ms),
        documents=len(corpus),
    )


if __name__ == "__main__":
    main()
