"""Builds one segment in a process of its own: ``python -m shortlist_server.storage.compaction.builder``.

Standard input gives the specification as one line of JSON. Standard output receives the result as one line of JSON: the
segment's row, or ``null`` when no passage was left. The process ends at once when standard input closes, because a
build must not outlive its server. The folder gets its final name only when every byte of it is synced; until then it
has a temporary name, and the next start removes it. The process reads the database in one transaction and never writes
to it.
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

from shortlist_server.storage.disk.files import CrashPoint, Files, pass_by
from shortlist_server.storage.layout import (
    DATA_FILES,
    GRAPH_FILE,
    KEYS_FILE,
    MANIFEST_FILE,
    PASSAGE_IDS_FILE,
    TWINS_FILE,
    VECTORS_FILE,
)
from shortlist_server.storage.rows.tables import tables_of
from shortlist_server.storage.values import SegmentRow
from shortlist_server.storage.vectors.manifest import MANIFEST_FORMAT, Manifest, check_folder, describe, sha256
from shortlist_server.storage.vectors.twins import read_twins, represent

LINKS = 16
"""hnswlib's ``M``."""

EF_CONSTRUCTION = 200
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
        uid: the new segment's uid.
        generation: whose passages to read.
        low, high: the segment gets the passages with ``low < passage_id <= high``.
        seed: a segment whose graph the new one starts from, or None.
        threads: number of threads that insert.
    """

    database: str
    folder: str
    collection: str
    uid: str
    generation: int
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


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The rows of a segment: passage ids and keys, shape (n,), and vectors, shape (n, dimension)."""

    passage_ids: NDArray[np.int64]
    keys: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def __getitem__(self, chosen: NDArray[Any]) -> _Rows:
        return _Rows(self.passage_ids[chosen], self.keys[chosen], self.vectors[chosen])

    def __add__(self, other: _Rows) -> _Rows:
        return _Rows(
            np.concatenate((self.passage_ids, other.passage_ids)),
            np.concatenate((self.keys, other.keys)),
            np.concatenate((self.vectors, other.vectors)),
        )


def build(spec: BuildSpec, files: Files, crash_point: CrashPoint = pass_by) -> SegmentRow | None:
    """Builds the folder of a segment and gives it its final name; the database does not list it yet.

    Returns:
        The row for the database, or None when no passage of the range is left.
    """
    rows = _read(spec)
    if not len(rows.passage_ids):
        return None
    crash_point("build:read")
    graph, rows, twins = _graph(spec, rows)
    crash_point("build:indexed")
    segments = Path(spec.folder)
    temporary, final = segments / f"{TEMPORARY_PREFIX}{spec.uid}", segments / spec.uid
    files.make_folder(temporary)
    files.write(temporary / PASSAGE_IDS_FILE, rows.passage_ids.tobytes())
    files.write(temporary / KEYS_FILE, rows.keys.tobytes())
    files.write(temporary / VECTORS_FILE, rows.vectors.data)
    files.write(temporary / TWINS_FILE, twins.tobytes())
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
        passages=len(rows.passage_ids),
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
    return SegmentRow(
        uid=spec.uid,
        generation=spec.generation,
        low=spec.low,
        high=spec.high,
        passages=len(rows.passage_ids),
        checksum=sha256(content),
    )


def _read(spec: BuildSpec) -> _Rows:
    uri = Path(spec.database).absolute().as_uri() + "?mode=rw"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        bounds, tables = (spec.low, spec.high), tables_of(spec.generation)
        count = connection.execute(
            f"SELECT count(*) FROM {tables.passages} WHERE label > ? AND label <= ?",  # noqa: S608
            bounds,
        ).fetchone()[0]
        passage_ids, keys = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        vectors = np.empty((count, spec.dimension), dtype=np.float32)
        cursor = connection.execute(
            f"SELECT label, key, vector, checksum FROM {tables.passages} JOIN {tables.vectors} USING (label)"  # noqa: S608
            " WHERE label > ? AND label <= ? ORDER BY label",
            bounds,
        )
        start = 0
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            end = start + len(rows)
            passage_ids[start:end] = [row[0] for row in rows]
            keys[start:end] = [row[1] for row in rows]
            if any(zlib.crc32(row[2]) != row[3] for row in rows):
                raise ValueError("a stored vector fails its checksum; restore the collection from a backup")
            block = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.float32)
            vectors[start:end] = block.reshape(len(rows), spec.dimension)
            start = end
        if start != count:
            raise ValueError(f"{count - start} passages have no vector")
        connection.execute("COMMIT")
    return _Rows(passage_ids, keys, vectors)


def _graph(spec: BuildSpec, rows: _Rows) -> tuple[Any, _Rows, NDArray[np.int64]]:
    """The graph; all rows, nodes first; and for each row after the nodes the node that stands for it, ascending."""
    graph = hnswlib.Index(space="ip", dim=spec.dimension)
    done, known = 0, np.empty(0, dtype=np.int64)
    if spec.seed is not None:
        seed, known = _read_seed(spec, spec.seed)
        done = len(seed.passage_ids) - len(known)
        # Dead rows of the seed stay in its graph; they are marked dead again when the result is loaded.
        rows = seed + rows[~np.isin(rows.passage_ids, seed.passage_ids, assume_unique=True)]
    own = np.arange(len(rows.passage_ids))
    stands = own.copy()
    stands[done : done + len(known)] = known
    stands = represent(rows.vectors, stands, done)
    nodes, others = np.flatnonzero(stands == own), np.flatnonzero(stands != own)
    twins = np.empty(0, dtype=np.int64)
    if len(others):
        twins = np.searchsorted(nodes, stands[others])
        order = np.argsort(twins, kind="stable")
        rows, twins = rows[np.concatenate((nodes, others[order]))], twins[order]
    if spec.seed is None:
        graph.init_index(max_elements=len(nodes), M=LINKS, ef_construction=EF_CONSTRUCTION)
    else:
        graph.load_index(str(Path(spec.folder) / spec.seed.uid / GRAPH_FILE), max_elements=len(nodes))
    for start in range(done, len(nodes), _ROWS_AT_ONCE):
        end = min(start + _ROWS_AT_ONCE, len(nodes))
        graph.add_items(rows.vectors[start:end], np.arange(start, end), num_threads=spec.threads)
    return graph, rows, twins


def _read_seed(spec: BuildSpec, seed: SegmentRow) -> tuple[_Rows, NDArray[np.int64]]:
    folder = Path(spec.folder) / seed.uid
    manifest = check_folder(folder, seed, spec.collection, spec.dimension)
    rows = _Rows(
        np.fromfile(folder / PASSAGE_IDS_FILE, dtype=np.int64),
        np.fromfile(folder / KEYS_FILE, dtype=np.int64),
        np.fromfile(folder / VECTORS_FILE, dtype=np.float32).reshape(-1, spec.dimension),
    )
    return rows, read_twins(folder, manifest)


def _check_graph(path: Path, graph: Any) -> None:
    # save_index reports no error; on a full disk it leaves a short file behind.
    expected = graph.index_file_size()
    if path.stat().st_size != expected:
        raise OSError(errno.ENOSPC, f"{path.name} was cut short: {path.stat().st_size} of {expected} bytes")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(3)


def main(crash_point: CrashPoint = pass_by) -> int:
    """Runs one build from standard input to standard output; the exit code is 0 on success."""
    spec = BuildSpec.load(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(10)
    row = build(spec, Files(), crash_point)
    sys.stdout.write(json.dumps(None if row is None else asdict(row)) + "\n")
    sys.stdout.flush()
    # A regular interpreter shutdown would wait for the thread that reads standard input.
    os._exit(0)


if __name__ == "__main__":
    main()
