"""Builds one segment, as a process of its own: ``python -m shortlist_server.storage.builder``.

The specification comes as one line of JSON on standard input; the result, the segment's row or ``null`` when no passage
was left, goes out as one line of JSON. The process ends at once when standard input closes: a build does not outlive
the server that wants it. The folder appears under its final name only when every byte of it is synced; before that it
has a temporary name, which the next start removes. Reads the database in one transaction and never writes to it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import sys
import threading
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from numpy.typing import NDArray

from shortlist_server.storage.files import CrashPoint, Files, pass_by
from shortlist_server.storage.manifest import (
    DATA_FILES,
    GRAPH_FILE,
    KEYS_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    MANIFEST_FORMAT,
    VECTORS_FILE,
    Manifest,
    SegmentRow,
    check_folder,
    describe,
    sha256,
)

LINKS = 16
"""hnswlib's ``M``."""

CONSTRUCTION_BREADTH = 200
"""hnswlib's ``ef_construction``."""

TEMPORARY_PREFIX = ".building-"

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """What to build.

    Attributes:
        database: the collection's database.
        folder: the folder of segments.
        collection: the collection's uid.
        uid: the new segment's.
        low, high: the passages with ``low < label <= high``.
        seed: a segment whose graph is the start of the new one, or None.
        threads: threads that insert.
    """

    database: str
    folder: str
    collection: str
    uid: str
    dimension: int
    low: int
    high: int
    seed: SegmentRow | None
    threads: int

    def dump(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> BuildSpec:
        """Reads what ``dump`` wrote."""
        values: dict[str, Any] = json.loads(text)
        if values["seed"] is not None:
            values["seed"] = SegmentRow(**values["seed"])
        return cls(**values)


def build(spec: BuildSpec, files: Files, crash_point: CrashPoint = pass_by) -> SegmentRow | None:
    """Builds and publishes the folder of a segment; the database does not know it yet.

    Returns:
        The row for the database, or None when no passage of the range is left.
    """
    labels, keys, vectors = _read(spec)
    if not len(labels):
        return None
    crash_point("build:read")
    graph, labels, keys, vectors = _graph(spec, labels, keys, vectors)
    crash_point("build:indexed")
    segments = Path(spec.folder)
    temporary, final = segments / f"{TEMPORARY_PREFIX}{spec.uid}", segments / spec.uid
    files.make_folder(temporary)
    files.write(temporary / LABELS_FILE, labels.tobytes())
    files.write(temporary / KEYS_FILE, keys.tobytes())
    files.write(temporary / VECTORS_FILE, vectors.data)
    crash_point("build:half_written")
    graph.save_index(str(temporary / GRAPH_FILE))
    files.narrow(temporary / GRAPH_FILE)
    _check_graph(temporary / GRAPH_FILE, graph)
    manifest = Manifest(
        format=MANIFEST_FORMAT,
        collection=spec.collection,
        segment=spec.uid,
        dimension=spec.dimension,
        low=spec.low,
        high=spec.high,
        passages=len(labels),
        files={name: describe(temporary / name) for name in DATA_FILES},
    )
    content = manifest.dump()
    files.write(temporary / MANIFEST_FILE, content)
    for name in (*DATA_FILES, MANIFEST_FILE):
        files.sync(temporary / name)
    files.sync_folder(temporary)
    crash_point("build:written")
    files.rename(temporary, final)
    crash_point("build:renamed")
    files.sync_folder(segments)
    return SegmentRow(uid=spec.uid, low=spec.low, high=spec.high, passages=len(labels), checksum=sha256(content))


def _read(spec: BuildSpec) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    uri = Path(spec.database).absolute().as_uri() + "?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        bounds = (spec.low, spec.high)
        count = connection.execute("SELECT count(*) FROM passages WHERE label > ? AND label <= ?", bounds).fetchone()[0]
        labels, keys = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        vectors = np.empty((count, spec.dimension), dtype=np.float32)
        cursor = connection.execute(
            "SELECT label, key, vector, checksum FROM passages JOIN vectors USING (label)"
            " WHERE label > ? AND label <= ? ORDER BY label",
            bounds,
        )
        start = 0
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            end = start + len(rows)
            labels[start:end] = [row[0] for row in rows]
            keys[start:end] = [row[1] for row in rows]
            if any(zlib.crc32(row[2]) != row[3] for row in rows):
                raise ValueError("a stored vector fails its checksum; restore the collection from a backup")
            block = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.float32)
            vectors[start:end] = block.reshape(len(rows), spec.dimension)
            start = end
        if start != count:
            raise ValueError(f"{count - start} passages have no vector")
        connection.execute("COMMIT")
    return labels, keys, vectors


def _graph(
    spec: BuildSpec, labels: NDArray[np.int64], keys: NDArray[np.int64], vectors: NDArray[np.float32]
) -> tuple[Any, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    graph = hnswlib.Index(space="ip", dim=spec.dimension)
    if spec.seed is None:
        graph.init_index(max_elements=len(labels), M=LINKS, ef_construction=CONSTRUCTION_BREADTH)
        done = 0
    else:
        folder = Path(spec.folder) / spec.seed.uid
        check_folder(folder, spec.seed, spec.collection, spec.dimension)
        seed_labels = np.fromfile(folder / LABELS_FILE, dtype=np.int64)
        seed_keys = np.fromfile(folder / KEYS_FILE, dtype=np.int64)
        seed_vectors = np.fromfile(folder / VECTORS_FILE, dtype=np.float32).reshape(-1, spec.dimension)
        new = ~np.isin(labels, seed_labels, assume_unique=True)
        # Dead rows of the seed stay in its graph and are marked again when the result is loaded.
        labels, keys = np.concatenate((seed_labels, labels[new])), np.concatenate((seed_keys, keys[new]))
        vectors = np.concatenate((seed_vectors, vectors[new]))
        done = len(seed_labels)
        graph.load_index(str(folder / GRAPH_FILE), max_elements=len(labels))
    for start in range(done, len(labels), _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, len(labels))
        graph.add_items(vectors[start:end], np.arange(start, end), num_threads=spec.threads)
    return graph, labels, keys, vectors


def _check_graph(path: Path, graph: Any) -> None:
    # save_index reports no error: a full disk leaves a short file behind.
    expected = graph.index_file_size()
    if path.stat().st_size != expected:
        raise OSError(errno.ENOSPC, f"{path.name} was cut short: {path.stat().st_size} of {expected} bytes")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(3)


def main(crash_point: CrashPoint = pass_by) -> int:
    """Runs one build from standard input to standard output; the exit code is 0 unless it failed."""
    spec = BuildSpec.load(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    row = build(spec, Files(), crash_point)
    sys.stdout.write(json.dumps(None if row is None else asdict(row)) + "\n")
    sys.stdout.flush()
    # Interpreter shutdown would wait for the thread that reads standard input.
    os._exit(0)


if __name__ == "__main__":
    main()
