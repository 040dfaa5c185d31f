"""PostgreSQL with pgvector, where the machine has both: a new cluster over a Unix socket."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from engine import EF_CONSTRUCTION, Engine, M, Vectors, wait_until_quiet

USER = "postgres"
"""PostgreSQL refuses to run as root, so root starts it as this user."""


class Peer(Engine):
    """Commits are synchronous, by default; filters use iterative scans."""

    title = "pgvector"
    kind = "server"
    requirements = ("psycopg[binary]>=3.2", "numpy")
    settings = f"HNSW, m {M}, ef_construction {EF_CONSTRUCTION}, iterative_scan relaxed_order"

    @classmethod
    def missing(cls) -> str | None:
        program = _program("pg_config")
        if program is None or _program("initdb") is None:
            return "PostgreSQL is not installed"
        shared = subprocess.run([program, "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()
        there = (Path(shared) / "extension" / "vector.control").exists()
        return None if there else "PostgreSQL is installed, its extension pgvector is not"

    def start(self) -> None:
        import psycopg

        data = self.folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
        if not data.exists():
            self._run("initdb", "-D", str(data), "-A", "trust", "-U", USER)
        options = f"-k {self.folder} -c listen_addresses='' -c shared_buffers=1GB -c maintenance_work_mem=1GB"
        self._run("pg_ctl", "-D", str(data), "-w", "-l", str(self.folder / "server.log"), "-o", options, "start")
        self._connection: Any = psycopg.connect(host=str(self.folder), user=USER, autocommit=True)
        self._writer: Any = psycopg.connect(host=str(self.folder), user=USER, autocommit=True)
        self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self._connection.execute("SET hnsw.iterative_scan = relaxed_order")

    def create(self) -> None:
        self._connection.execute(
            f"CREATE TABLE bench (id bigint PRIMARY KEY, bucket int, vector vector({self.dimension}))"
        )

    def add(self, ids: Sequence[int], vectors: Vectors, buckets: Sequence[int]) -> None:
        with self._writer.cursor().copy("COPY bench (id, bucket, vector) FROM STDIN") as copy:
            for id, bucket, vector in zip(ids, buckets, vectors, strict=True):
                copy.write_row((id, bucket, _text(vector)))

    def settle(self) -> None:
        self._connection.execute(
            f"CREATE INDEX ON bench USING hnsw (vector vector_cosine_ops) "
            f"WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
        )
        self._connection.execute("CREATE INDEX ON bench (bucket)")
        self._connection.execute("VACUUM ANALYZE bench")
        wait_until_quiet(self.pids())

    def search(self, vector: Vectors, limit: int, below: int | None = None) -> list[int]:
        where = "" if below is None else f"WHERE bucket < {int(below)}"
        self._connection.execute(f"SET hnsw.ef_search = {max(self.effort, limit)}")
        rows = self._connection.execute(
            f"SELECT id FROM bench {where} ORDER BY vector <=> %s::vector LIMIT {int(limit)}", (_text(vector),)
        )
        return [row[0] for row in rows]

    def present(self, ids: Sequence[int]) -> int:
        (count,) = self._connection.execute("SELECT count(*) FROM bench WHERE id = ANY(%s)", (list(ids),)).fetchone()
        return int(count)

    def stop(self) -> None:
        self._connection.close()
        self._writer.close()
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")

    def pids(self) -> list[int]:
        return [int((self.folder / "data" / "postmaster.pid").read_text().split()[0])]

    def _run(self, program: str, *arguments: str) -> None:
        path = _program(program)
        assert path is not None
        user = USER if os.geteuid() == 0 else None
        subprocess.run([path, *arguments], user=user, check=True, stdout=subprocess.DEVNULL, cwd="/")


def _program(name: str) -> str | None:
    found = shutil.which(name)
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(beside[-1]) if beside else None)


def _text(vector: Vectors) -> str:
    return "[" + ",".join(np.char.mod("%.7g", vector)) + "]"
