"""A server under a low limit of open files serves many collections, or says in one sentence that it cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from shortlist import Client, CollectionConfig, Document
from shortlist.v1 import document_service_pb2 as pb
from shortlist.v1 import document_service_pb2_grpc as pb_grpc
from shortlist_server.storage.disk.descriptors import LEAST_LIMIT

COLLECTIONS = 60
LIMITED = "ulimit -n {limit} && exec {python} -m shortlist_cli serve --listen 127.0.0.1:0 --data-dir {data} {arguments}"


@contextmanager
def limited_server(folder: Path, limit: int, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server that may have so many files open: its address, and the process."""
    command = LIMITED.format(
        limit=limit,
        python=sys.executable,
        data=folder / "data",
        arguments=" ".join(["--embedder", "hashing", *arguments]),
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            yield line.rpartition(" ")[2].strip(), process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.parametrize("limit", [LEAST_LIMIT, 256, 1024])
def test_many_collections_are_served_within_the_limit(tmp_path: Path, limit: int) -> None:
    names = [f"c{i}" for i in range(COLLECTIONS)]
    with limited_server(tmp_path, limit, "--max-open-collections", "1000") as (target, process):
        with Client(target) as client:

            def fill(name: str) -> None:
                client.create_collection(name, CollectionConfig(embedder="none", dimension=2))
                client.ingest(name, [Document(id=name, text="fox", vector=[1.0, 0.0])]).finish()

            with ThreadPoolExecutor(4) as threads:
                list(threads.map(fill, names))
                found = list(threads.map(lambda name: client.search(name, "fox", mode="lexical").hits[0].id, names))
            assert found == names
            assert [collection.document_count for collection in client.list_collections()] == [1] * COLLECTIONS
            assert sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir()) < limit
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "check the data folder" not in log
    assert "cannot be opened" not in log


def test_more_open_streams_than_the_limit_allows_are_told_to_come_back(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(30)]
    with limited_server(tmp_path, LEAST_LIMIT) as (target, process), Client(target) as client:
        for name in names:
            client.create_collection(name, CollectionConfig(embedder="none", dimension=2))
        held = threading.Event()

        def requests(name: str) -> Iterator[pb.IngestRequest]:
            yield pb.IngestRequest(start=pb.IngestStart(collection=name))
            held.wait(60)

        streams = []
        with grpc.insecure_channel(target) as channel:
            stub = pb_grpc.DocumentServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                for name in names:
                    stream = stub.Ingest(requests(name))
                    next(stream)
                    streams.append(stream)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "open files" in (caught.value.details() or "")
            assert streams
            # Those that are open are served, and the others once a stream has ended.
            assert client.search(names[0], vector=[1.0, 0.0]).hits == ()
            held.set()
            for stream in streams:
                assert list(stream) == []
        assert [client.search(name, vector=[1.0, 0.0]).hits for name in names] == [()] * len(names)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_limit_that_is_too_low_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with limited_server(tmp_path, 100) as (target, process):
        assert target == ""
        assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert f"the limit of open files is 100, and the server needs at least {LEAST_LIMIT}" in log


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    command = LIMITED.replace("ulimit -n {limit}", "ulimit -S -n 100").format(
        python=sys.executable, data=tmp_path / "data", arguments="--embedder hashing"
    )
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        assert "serving on" in process.stdout.readline()
        line = next(
            line for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines() if "Max open files" in line
        )
        soft, hard = line.split()[3:5]
        assert soft == hard
        assert int(hard) > 100
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
        process.stdout.close()
