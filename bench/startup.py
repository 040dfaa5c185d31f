"""Time from process start to the first answer, with an existing collection and an exported model; and idle memory.

python bench/startup.py [--quick] [--data FOLDER] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from bars import at_most, finish
from served import COLLECTION, SCIFACT, documents, serving

from shortlist import Client
from shortlist_cli.hosting.server_process import ServerProcess

LIMIT_SECONDS = 2.5


def loaded_modules(pid: int) -> set[str]:
    """Which of the heavy libraries a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in ("torch", "transformers", "onnxruntime") if f"/{name}/" in maps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer documents and starts")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format")
    parser.add_argument("--keep", type=Path, help="folder to keep the server's data in, for later runs")
    options = parser.parse_args()
    corpus = documents(options.data, 300 if options.quick else None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with serving(folder, corpus):
            pass
        seconds = []
        for i in range(3 if options.quick else 7):
            begin = time.perf_counter()
            server = ServerProcess(folder / "data")
            try:
                with Client(server.target) as client:
                    found = client.search(COLLECTION, f"does treatment {i} lower the risk of disease")
                seconds.append(time.perf_counter() - begin)
                assert found.hits
                process = psutil.Process(server.process.pid)
                memory = process.memory_info().rss
                modules = loaded_modules(server.process.pid)
            finally:
                server.stop()
    finish(
        "startup",
        [
            at_most("seconds from process start to first answer", statistics.median(seconds), LIMIT_SECONDS),
            at_most("torch or transformers in memory", len(modules & {"torch", "transformers"}), 0),
        ],
        documents=len(corpus),
        seconds=[round(value, 3) for value in seconds],
        idle_memory_mb=memory / 2**20,
    )


if __name__ == "__main__":
    main()
