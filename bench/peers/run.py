"""Shortlist beside its alternatives: the same vectors, queries and machine, in one table.

    python bench/peers/run.py [--quick] [--peer NAME]... [--text BEIR_FOLDER] [--output FOLDER]

Each peer runs in its own environment, made under the cache folder, and each of its phases in its own process, one after
the other. The table names each peer that cannot be installed and each phase that fails. Prints the table as Markdown;
``--output`` also gets ``peers.json`` and ``peers.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bars import machine  # noqa: E402
from environment import NotInstallable, environment_python  # noqa: E402
from served import SCIFACT  # noqa: E402
from table import markdown  # noqa: E402
from workload import DIMENSION, FULL, QUICK, Size, Text, read_text, write_text, write_vectors  # noqa: E402

from shortlist_server.config import DEFAULT_EMBEDDER  # noqa: E402
from shortlist_server.ranking.measures import judge  # noqa: E402

PEERS = ("shortlist_itself", "chroma", "milvus_lite", "qdrant", "lance", "pgvector", "bare_hnswlib")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shortlist-peers"
PHASE_SECONDS = {True: 120.0, False: 3600.0}
"""Longest time of a phase: quick, full."""


class PhaseFailed(Exception):
    """A phase failed; the message is the last line of its output."""


class Bench:
    """Runs all phases of all peers."""

    def __init__(self, work: Path, cache: Path, size: Size, text: Text, *, quick: bool) -> None:
        self.work, self.cache, self.size, self.text, self.quick = work, cache, size, text, quick
        self.data = work / "data"
        self.data.mkdir()
        self.settings = {
            "dimension": DIMENSION,
            "batch": size.batch,
            "crash_batch": size.crash_batch,
            "beside_seconds": size.beside_seconds,
            "text": asdict(text),
            "acked": 0,
        }
        self.write_settings()

    def write_settings(self, **changed: Any) -> None:
        """Writes the settings that the worker reads beside the arrays."""
        self.settings |= changed
        (self.data / "workload.json").write_text(json.dumps(self.settings))

    def measure(self, name: str) -> dict[str, Any]:
        """Runs all phases of one peer and returns its figures."""
        about = described(name)
        result: dict[str, Any] = {"peer": name, **{key: about[key] for key in ("title", "kind", "settings")}}
        if about["missing"]:
            return {**result, "skipped": about["missing"]}
        try:
            python = environment_python(name, about["requirements"], self.cache)
            self.phase(python, name, "probe", "probe")
        except (NotInstallable, PhaseFailed) as error:
            return {**result, "skipped": str(error)}
        problems: dict[str, str] = {}
        for phase in ("ingest", "search", "crash", "text"):
            say(f"{about['title']}: {phase}")
            try:
                result |= getattr(self, f"run_{phase}")(python, name)
            except PhaseFailed as error:
                problems[phase] = str(error)
        return {**result, "problems": problems} if problems else result

    def run_ingest(self, python: Path, name: str) -> dict[str, Any]:
        return self.phase(python, name, "ingest", "main")

    def run_search(self, python: Path, name: str) -> dict[str, Any]:
        return self.phase(python, name, "search", "main")

    def run_crash(self, python: Path, name: str) -> dict[str, Any]:
        """Kills the peer halfway through an ingest, starts it again and counts the rows."""
        out = self.out(name, "crash")
        process = self.start(python, name, "crash", "crash", out)
        until = time.monotonic() + PHASE_SECONDS[self.quick]
        try:
            while time.monotonic() < until and process.poll() is None:
                if merged(out).get("acked", 0) >= self.size.rows // 2:
                    break
                time.sleep(0.01)
            ended = process.poll()
        finally:
            kill(process)
        acked = int(merged(out).get("acked", 0))
        if ended is not None or not acked:
            raise PhaseFailed(self.last_line(name, "crash") or "nothing was acknowledged in time")
        self.write_settings(acked=acked)
        found = self.phase(python, name, "recover", "crash")
        return {"acked": acked, "lost": acked - found["present"], "recover_seconds": found["recover_seconds"]}

    def run_text(self, python: Path, name: str) -> dict[str, Any]:
        told = self.phase(python, name, "text", "text")

        def quality(found: list[list[int]]) -> float:
            rankings = {str(number): [str(place) for place in places] for number, places in enumerate(found)}
            return judge(rankings, self.text.grades)["ndcg_at_10"]

        names = {"found": "text_ndcg_at_10", "found_by_vectors": "text_by_vectors_ndcg_at_10"}
        return {figure: quality(told[found]) for found, figure in names.items() if found in told}

    def phase(self, python: Path, name: str, phase: str, folder: str) -> dict[str, Any]:
        """Runs a phase to its end and returns all its figures.

        Raises:
            PhaseFailed: the phase failed, or took too long.
        """
        out = self.out(name, phase)
        process = self.start(python, name, phase, folder, out)
        try:
            code = process.wait(PHASE_SECONDS[self.quick])
        except subprocess.TimeoutExpired as error:
            raise PhaseFailed(f"took longer than {PHASE_SECONDS[self.quick]:g} s") from error
        finally:
            kill(process)
        if code != 0:
            raise PhaseFailed(self.last_line(name, phase) or f"ended with code {code}")
        return merged(out)

    def start(self, python: Path, name: str, phase: str, folder: str, out: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "SHORTLIST_EMBEDDERS": self.text.embedder}
        place = self.work / name / folder
        place.parent.mkdir(parents=True, exist_ok=True)
        engine = HERE / "engines" / f"{name}.py"
        with self.log(name, phase).open("wb") as log:
            # In its own session, so that the peer's servers end with it.
            return subprocess.Popen(
                [str(python), str(HERE / "worker.py"), str(engine), phase, str(place), str(self.data), str(out)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
            )

    def out(self, name: str, phase: str) -> Path:
        path = self.work / f"{name}-{phase}.jsonl"
        path.unlink(missing_ok=True)
        return path

    def log(self, name: str, phase: str) -> Path:
        return self.work / f"{name}-{phase}.log"

    def last_line(self, name: str, phase: str) -> str:
        lines = self.log(name, phase).read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def described(name: str) -> dict[str, Any]:
    """The attributes of an engine's class, read by this interpreter without the peer's packages."""
    program = (
        "import sys, types, json, importlib.machinery\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "class Missing(types.ModuleType):\n"
        "    __path__ = []\n"
        "    def __getattr__(self, name): return None\n"
        "for module in ('hnswlib', 'qdrant_edge', 'lancedb', 'pyarrow'): sys.modules[module] = Missing(module)\n"
        "from pathlib import Path\n"
        "from worker import load_engine\n"
        "peer = load_engine(Path(sys.argv[2]))\n"
        "about = {key: getattr(peer, key) for key in ('title', 'kind', 'settings', 'requirements')}\n"
        "print(json.dumps({**about, 'missing': peer.missing()}))\n"
    )
    engine = HERE / "engines" / f"{name}.py"
    ran = subprocess.run(
        [sys.executable, "-c", program, str(HERE), str(engine)], capture_output=True, text=True, check=True
    )
    about: dict[str, Any] = json.loads(ran.stdout)
    return about


def merged(out: Path) -> dict[str, Any]:
    """The figures that a phase has written so far; the last value of each name counts."""
    told: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in out.read_text().splitlines():
            # The last line may be half written.
            with contextlib.suppress(ValueError):
                told |= json.loads(line)
    return told


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a phase with everything it started, as ``kill -9`` does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def report(bench: Bench, results: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The content of ``peers.json``."""
    text = bench.text
    return {
        "command": shlex.join(["python", "bench/peers/run.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "size": asdict(bench.size),
        "dimension": DIMENSION,
        "text": {
            "name": text.name,
            "embedder": text.embedder,
            "documents": len(text.documents),
            "queries": len(text.queries),
        },
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few thousand rows and the hashing embedder")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only these; repeatable")
    parser.add_argument("--rows", type=int, help="vectors; 100,000 by default")
    parser.add_argument("--text", type=Path, default=SCIFACT, help="a BEIR folder for the search of text")
    parser.add_argument("--embedder", default=DEFAULT_EMBEDDER, help="as in shortlist serve")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder for environments and embeddings")
    parser.add_argument("--output", type=Path, help="folder for peers.json and peers.md")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    if options.rows:
        size = Size(**{**asdict(size), "rows": options.rows})
    embedder = "hashing" if options.quick else options.embedder
    options.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shortlist-peers-") as work:
        text = read_text(options.text, "test", size, embedder)
        bench = Bench(Path(work), options.cache, size, text, quick=options.quick)
        say("making the data")
        write_vectors(bench.data, size)
        write_text(bench.data, text, options.cache)
        results = [bench.measure(name) for name in options.peer or PEERS]
        made = report(bench, results)
    page = markdown(made)
    print(page)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "peers.json").write_text(json.dumps(made, indent=1) + "\n")
        (options.output / "peers.md").write_text(page)


if __name__ == "__main__":
    main()
