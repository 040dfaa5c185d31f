"""A key that is withdrawn, or loses a right, while its stream is open."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shortlist import Client, Document, PermissionDenied, Unauthenticated
from shortlist.v1 import document_pb2, operation_pb2
from shortlist.v1 import document_service_pb2 as pb
from shortlist.v1 import document_service_pb2_grpc as pb_grpc
from shortlist_server import errors
from shortlist_server.keys import ApiKey, KeyRing, Scope, new_key
from shortlist_server.operations.operation import Control, Kind, Operation, Work
from shortlist_server.operations.registry import OperationRegistry
from shortlist_server.rpc import admission
from shortlist_server.rpc.admission import Admission
from shortlist_server.testing import server

SECRET, KEY = new_key("feeder", [Scope.WRITE, Scope.READ])
OWNER_SECRET, OWNER = new_key("owner", Scope)
START = pb.IngestRequest(start=pb.IngestStart(collection="docs"))

CHANGES: dict[str, tuple[ApiKey | None, grpc.StatusCode]] = {
    "withdrawn": (None, grpc.StatusCode.UNAUTHENTICATED),
    "renewed": (new_key("feeder", Scope)[1], grpc.StatusCode.UNAUTHENTICATED),
    "without its scope": (
        dataclasses.replace(KEY, scopes=frozenset([Scope.READ])),
        grpc.StatusCode.PERMISSION_DENIED,
    ),
    "without its collection": (
        dataclasses.replace(KEY, collections=("other",)),
        grpc.StatusCode.PERMISSION_DENIED,
    ),
}
"""What becomes of the key in the file, and what its stream ends with."""


class Keys:
    """The file of keys of a running server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write(KEY)

    def write(self, feeder: ApiKey | None) -> None:
        entries = [key.entry() for key in (OWNER, feeder) if key is not None]
        self.path.write_text("\n".join(entries))


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    monkeypatch.setattr("shortlist_server.keys.RELOAD_SECONDS", 0.0)
    monkeypatch.setattr(admission, "RECHECK_SECONDS", 0.1)
    return Keys(tmp_path / "keys")


@pytest.fixture
def target(tmp_path: Path, keys: Keys) -> Iterator[str]:
    with server(data_dir=tmp_path / "data", api_keys_file=str(keys.path)) as running:
        with Client(running.target, api_key=OWNER_SECRET) as client:
            client.create_collection("docs")
        yield running.target


def batch(position: int) -> pb.IngestRequest:
    document = document_pb2.Document(id=f"d{position}", text="owl")
    return pb.IngestRequest(batch=pb.IngestBatch(operations=[pb.IngestOperation(position=position, upsert=document)]))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("goes_on", [True, False], ids=["that goes on", "that is quiet"])
def test_a_stream_ends_with_its_key_and_what_was_taken_is_settled(
    target: str, keys: Keys, change: str, goes_on: bool
) -> None:
    changed, over = threading.Event(), threading.Event()

    def requests() -> Iterator[pb.IngestRequest]:
        yield START
        yield batch(1)
        changed.wait(30)
        for position in range(2, 50) if goes_on else ():
            yield batch(position)
        over.wait(30)

    with grpc.insecure_channel(target) as channel:
        metadata = (("authorization", f"Bearer {SECRET}"),)
        call = pb_grpc.DocumentServiceStub(channel).Ingest(requests(), metadata=metadata, timeout=30)
        acks: list[Any] = []
        with pytest.raises(grpc.RpcError) as caught:
            for response in call:
                acks.extend(response.acks.acks)
                if acks and not changed.is_set():
                    keys.write(CHANGES[change][0])
                    changed.set()
        over.set()
    assert caught.value.code() is CHANGES[change][1]
    assert [ack.status for ack in acks] == [pb.ACK_STATUS_DURABLE]
    with Client(target, api_key=OWNER_SECRET) as client:
        assert client.count("docs") == 1


@pytest.mark.parametrize("goes_on", [True, False], ids=["that goes on", "that is quiet"])
def test_a_wait_ends_with_the_right_to_the_operations_collections(tmp_path: Path, keys: Keys, goes_on: bool) -> None:
    secret, key = new_key("feeder", [Scope.ADMIN], ["docs"])
    keys.write(key)
    shown: list[object] = []

    async def start(operations: OperationRegistry, work: Work) -> Operation:
        return operations.start(work, caller="owner")

    async def work(control: Control) -> None:
        for number in itertools.count():
            control.cancellation.check()
            if goes_on or not number:
                control.report_progress(operation_pb2.VerifyProgress(collection="docs", step=str(number)))
            await asyncio.sleep(0.02)

    def show(progress: object) -> None:
        if not shown:
            keys.write(dataclasses.replace(key, collections=("other",)))
        shown.append(progress)

    with (
        server(data_dir=tmp_path / "data", api_keys_file=str(keys.path)) as running,
        Client(running.target, api_key=OWNER_SECRET) as owner,
        Client(running.target, api_key=secret) as client,
    ):
        owner.create_collection("docs")
        given = Work(kind=Kind.VERIFY, collection="docs", collections=("docs",), run=work, turns=None)
        name = f"operations/{running._run(start(running._server._operations, given), 30).id}"
        with pytest.raises(PermissionDenied, match="'docs'"):
            client.wait_operation(name, progress=show, timeout_seconds=30)
        assert len(shown) < 10
        owner.cancel_operation(name)


def test_an_ingest_of_a_withdrawn_key_raises_and_what_was_acknowledged_is_there(target: str, keys: Keys) -> None:
    durable = []
    with Client(target, api_key=SECRET) as client, pytest.raises(Unauthenticated, match="withdrawn"):
        for ack in client.ingest("docs", (Document(id=f"d{i}", text=f"owl {i}") for i in range(100_000))):
            durable.append(ack.id)
            if len(durable) == 500:
                keys.write(None)
    with Client(target, api_key=OWNER_SECRET) as client:
        assert client.count("docs") >= len(durable) >= 500
        assert None not in client.get("docs", durable[-500:])


def test_a_stream_whose_key_gains_a_right_goes_on(target: str, keys: Keys) -> None:
    def source() -> Iterator[Document]:
        yield Document(id="a", text="owl")
        keys.write(dataclasses.replace(KEY, scopes=frozenset(Scope), collections=("docs",)))
        yield from (Document(id=f"d{i}", text="owl") for i in range(10))

    with Client(target, api_key=SECRET) as client:
        assert client.ingest("docs", source()).finish().durable == 11


async def test_answers_that_come_for_long_end_with_the_key(keys: Keys) -> None:
    ring = KeyRing((), keys.path)
    open_call = Admission(ring, KEY, Scope.READ)

    async def endless() -> AsyncIterator[int]:
        for number in range(100):
            yield number
            keys.write(None)

    seen = []
    with pytest.raises(errors.Unauthenticated):
        async for number in open_call.responses(endless()):
            seen.append(number)
    assert seen == [0]
