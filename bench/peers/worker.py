"""Runs one phase of one peer, in the peer's own environment and in its own process.

    python worker.py ENGINE.py PHASE FOLDER DATA OUT

``run.py`` starts it and reads what it appends to OUT: one JSON object a line. Phases: "probe", "ingest", "search",
"crash" (adds rows until it is killed), "recover", "text".
"""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from engine import Engine, Vectors

LIMIT = 10
RECALL = 0.98
SHARES = {"1 %": 1, "10 %": 10}
"""The filters: rows pass whose bucket, 0 to 99, is below the bound."""


class Phases:
    """The phases, over the data of ``workload.py``."""

    def __init__(self, engine: type[Engine], folder: Path, data: Path, tell: Callable[[dict[str, Any]], None]) -> None:
        self.settings = json.loads((data / "workload.json").read_text())
        self.kind, self.folder, self.data, self.tell = engine, folder, data, tell

    def array(self, name: str) -> Any:
        return np.load(self.data / f"{name}.npy", mmap_mode="r")

    @contextmanager
    def opened(self, dimension: int | None = None) -> Iterator[tuple[Engine, float]]:
        """Starts the engine; yields it and the seconds that its start took."""
        self.folder.mkdir(parents=True, exist_ok=True)
        engine = self.kind(self.folder, dimension or self.settings["dimension"])
        begin = time.perf_counter()
        try:
            engine.start()
            yield engine, time.perf_counter() - begin
        finally:
            engine.stop()

    def probe(self) -> None:
        """Imports and starts the peer."""
        with self.opened() as (_, seconds):
            self.tell({"started_seconds": seconds})

    def ingest(self) -> None:
        """Ingests all rows durably, then waits until searches are fast."""
        vectors, buckets = self.array("vectors"), self.array("buckets").tolist()
        with self.opened() as (engine, _):
            engine.create()
            begin = time.perf_counter()
            engine.add_all(vectors, buckets, 0, self.settings["batch"], lambda count: None)
            engine.commit()
            durable = time.perf_counter()
            engine.settle()
            settled = time.perf_counter()
            self.tell(
                {
                    "ingest_rows_per_second": len(vectors) / (durable - begin),
                    "settle_seconds": settled - durable,
                    "memory_bytes": sum(map(resident_bytes, engine.pids())),
                    "rows": engine.present(range(len(vectors))),
                }
            )
        self.tell({"disk_bytes": sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())})

    def search(self) -> None:
        """Restarts, then searches: alone, filtered, and beside an ingest."""
        queries = np.asarray(self.array("queries"))
        begin = time.perf_counter()
        with self.opened() as (engine, _):
            engine.search(queries[0], LIMIT)
            self.tell({"restart_seconds": time.perf_counter() - begin})
            truth = self.array("truth")
            for effort in engine.efforts:
                engine.effort = effort
                found, _ = timed(engine, queries, None)
                if recall(found, truth) >= RECALL:
                    break
            found, times = timed(engine, queries, None)
            self.tell({"effort": engine.effort, "recall": recall(found, truth), **percentiles(times, "search")})
            for share, below in SHARES.items():
                found, times = timed(engine, queries, below)
                truth = self.array(f"truth_{below}")
                self.tell({f"filtered {share}": {"recall": recall(found, truth), **percentiles(times, "search")}})
            if engine.searches_while_adding:
                self.tell({"during_ingest": self.beside(engine, queries)})

    def beside(self, engine: Engine, queries: Vectors) -> dict[str, Any]:
        """Searches while a second thread adds up to as many rows as the index has."""
        more, rows = np.asarray(self.array("more")), len(self.array("vectors"))
        done = threading.Event()
        problems: list[BaseException] = []
        added = 0

        def add() -> None:
            nonlocal added

            def acked(count: int) -> None:
                nonlocal added
                added = start + count

            try:
                for start in range(0, rows, len(more)):
                    if done.is_set():
                        break
                    engine.add_all(more, [50] * len(more), rows + start, self.settings["batch"], acked)
            except BaseException as error:
                problems.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=add, name="ingest", daemon=True)
        times: list[float] = []
        begin = time.perf_counter()
        thread.start()
        while not done.is_set() and time.perf_counter() - begin < self.settings["beside_seconds"]:
            times.append(timed(engine, queries[len(times) % len(queries)][None], None)[1][0])
        seconds = time.perf_counter() - begin
        done.set()
        # A bounded wait for the remaining rows: the process ends anyway.
        thread.join(self.settings["beside_seconds"])
        if problems:
            raise problems[0]
        return {"searches": len(times), "rows_per_second": added / seconds, **percentiles(times, "search")}

    def crash(self) -> None:
        """Adds rows until it is killed, and reports the acknowledged ones."""
        vectors, buckets = self.array("vectors"), self.array("buckets").tolist()
        with self.opened() as (engine, _):
            engine.create()
            self.tell({"ready": True})
            engine.add_all(vectors, buckets, 0, self.settings["crash_batch"], lambda count: self.tell({"acked": count}))
            self.tell({"finished": True})
            time.sleep(60)

    def recover(self) -> None:
        """Starts on the files of the killed process, and counts the rows."""
        begin = time.perf_counter()
        with self.opened() as (engine, _):
            engine.search(np.asarray(self.array("queries"))[0], LIMIT)
            seconds = time.perf_counter() - begin
            self.tell({"recover_seconds": seconds, "present": engine.present(range(self.settings["acked"]))})

    def text(self) -> None:
        """Searches a judged collection by the vectors of the benchmark's embedder."""
        corpus, queries = np.asarray(self.array("text_documents")), np.asarray(self.array("text_queries"))
        with self.opened(corpus.shape[1]) as (engine, _):
            if hasattr(engine, "text_run"):
                self.tell(engine.text_run(self.settings["text"]))
                return
            engine.create()
            engine.add_all(corpus, [0] * len(corpus), 0, self.settings["batch"], lambda count: None)
            engine.commit()
            engine.settle()
            engine.effort = engine.efforts[-1]
            self.tell({"found_by_vectors": [engine.search(query, LIMIT) for query in queries]})


def timed(engine: Engine, queries: Vectors, below: int | None) -> tuple[list[list[int]], list[float]]:
    """The ids that each query found, and the seconds of each search."""
    found, times = [], []
    for query in queries:
        begin = time.perf_counter()
        found.append(engine.search(query, LIMIT, below))
        times.append(time.perf_counter() - begin)
    return found, times


def recall(found: Sequence[Sequence[int]], truth: Any) -> float:
    """The share of the true nearest rows that the searches found."""
    hits = sum(len(set(one) & set(true[true >= 0].tolist())) for one, true in zip(found, truth, strict=True))
    return float(hits / max(1, int((truth >= 0).sum())))


def percentiles(times: Sequence[float], name: str) -> dict[str, float]:
    """The median and the 99th percentile, in milliseconds, by the nearest rank."""
    ordered = sorted(times)
    at = {share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99)} if ordered else {}
    return {f"{name}_p{round(100 * share)}_ms": 1000 * seconds for share, seconds in at.items()}


def resident_bytes(pid: int) -> int:
    """Memory of a process and its children in bytes; 0 where the system does not report it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return own + sum(resident_bytes(int(child)) for child in children)


def load_engine(path: Path) -> type[Engine]:
    """The class ``Peer`` of an engine's file, whose name may also be a package's."""
    spec = importlib.util.spec_from_file_location("peer_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer: type[Engine] = module.Peer
    return peer


def main() -> None:
    engine, phase, folder, data, out = sys.argv[1:]
    with Path(out).open("a", encoding="utf-8") as lines:

        def tell(message: dict[str, Any]) -> None:
            lines.write(json.dumps(message) + "\n")
            lines.flush()

        getattr(Phases(load_engine(Path(engine)), Path(folder), Path(data), tell), phase)()


if __name__ == "__main__":
    main()
