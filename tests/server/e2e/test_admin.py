"""Operating a real server: what it says of itself, verification, backup and restore."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from shortlist import Client, CollectionConfig, Document
from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import admin_service_pb2_grpc as pb_grpc
from shortlist.v1 import operation_pb2, operation_service_pb2, operation_service_pb2_grpc
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.testing import server


@pytest.fixture(scope="module")
def admin(target: str) -> Iterator[pb_grpc.AdminServiceStub]:
    with Client(target) as client, grpc.insecure_channel(target) as channel:
        client.create_collection("docs")
        client.ingest("docs", [Document(id=f"d{i}", text=f"word{i} and more") for i in range(30)]).finish()
        yield pb_grpc.AdminServiceStub(channel)


def test_the_server_says_what_it_is_and_serves(admin: pb_grpc.AdminServiceStub) -> None:
    info = admin.GetServerInfo(pb.GetServerInfoRequest(), timeout=5)
    assert info.version
    assert info.embedders[0].name == "hashing"
    assert info.embedders[0].dimension > 0
    assert [model.name for model in info.rerankers] == ["late-interaction"]
    assert info.startup_time.ToMilliseconds() > 0
    assert info.collection_count >= 1


def ended(target: str, operation: operation_pb2.Operation) -> operation_pb2.Operation:
    """The operation at its end."""
    with grpc.insecure_channel(target) as channel:
        stub = operation_service_pb2_grpc.OperationServiceStub(channel)
        request = operation_service_pb2.WaitOperationRequest(name=operation.name)
        *_, last = stub.WaitOperation(request, timeout=30)
    operation = last.operation
    assert operation.state == operation_pb2.OPERATION_STATE_SUCCEEDED, operation
    return operation


def test_verification_reports_each_collection(admin: pb_grpc.AdminServiceStub, target: str) -> None:
    operation = ended(target, admin.Verify(pb.VerifyRequest(), timeout=30).operation)
    (report,) = operation.verify_result.reports
    assert (report.collection, report.ok, report.document_count, report.passage_count) == ("docs", True, 30, 30)
    assert report.segment_passage_count + report.growing_passage_count == 30
    assert all(check.ok for check in report.checks)
    assert operation.verify_progress.collection == "docs"


def test_a_backup_is_restored_under_another_name(admin: pb_grpc.AdminServiceStub, target: str) -> None:
    made = ended(target, admin.Backup(pb.BackupRequest(name="first"), timeout=30).operation).backup
    assert made.name == "first"
    assert made.collections[0].document_count == 30
    with Client(target) as client:
        client.delete("docs", ["d3"])
        request = pb.RestoreRequest(backup="first", collection="docs", new_name="again")
        restored = ended(target, admin.Restore(request, timeout=30).operation).restored_collection
        assert (restored.name, restored.document_count) == ("again", 30)
        assert client.search("again", "word3").hits[0].id == "d3"
        assert "d3" not in {hit.id for hit in client.search("docs", "word3")}
    listed = admin.ListBackups(pb.ListBackupsRequest(), timeout=5).backups
    assert [backup.name for backup in listed] == ["first"]


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Backup", pb.BackupRequest(name="../out"), grpc.StatusCode.INVALID_ARGUMENT),
        ("Backup", pb.BackupRequest(name=""), grpc.StatusCode.INVALID_ARGUMENT),
        ("Backup", pb.BackupRequest(name="x", collections=["absent"]), grpc.StatusCode.NOT_FOUND),
        ("Restore", pb.RestoreRequest(backup="absent", collection="docs"), grpc.StatusCode.INVALID_ARGUMENT),
        ("Restore", pb.RestoreRequest(backup="first", collection="absent"), grpc.StatusCode.NOT_FOUND),
        ("Restore", pb.RestoreRequest(backup="first", collection="docs"), grpc.StatusCode.ALREADY_EXISTS),
        ("Backup", pb.BackupRequest(name="first"), grpc.StatusCode.INVALID_ARGUMENT),
        ("Evaluate", pb.EvaluateRequest(collection="docs"), grpc.StatusCode.INVALID_ARGUMENT),
        ("Restore", pb.RestoreRequest(backup="/etc", collection="docs"), grpc.StatusCode.INVALID_ARGUMENT),
        ("Verify", pb.VerifyRequest(collection="absent"), grpc.StatusCode.NOT_FOUND),
        ("Verify", pb.VerifyRequest(sample=-1), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_cannot_be_done_is_refused(
    admin: pb_grpc.AdminServiceStub, method: str, request_: object, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        getattr(admin, method)(request_, timeout=10)
    assert caught.value.code() is code


def test_documents_are_read_however_many_verifications_are_under_way(tmp_path: Path) -> None:
    busy, held = threading.Event(), threading.Event()
    with server(tmp_path) as running, Client(running.target) as client:
        client.create_collection("a", CollectionConfig(embedder="none", dimension=1))
        client.ingest("a", [Document(id="x", vector=[1.0])]).finish()
        # Verifications wait for the collection's writer.
        collection = running._server._store.open("a")

        def hold(_: WriteTransaction) -> None:
            busy.set()
            held.wait(60)

        collection.submit(Task(hold, lambda _: None))
        assert busy.wait(30)
        with ThreadPoolExecutor(8) as threads:
            verifications = [threads.submit(client.verify, "a") for _ in range(8)]
            try:
                end = time.monotonic() + 30
                while running._server._calls._under_way < 8:
                    assert time.monotonic() < end
                    time.sleep(0.01)
                for _ in range(10):
                    assert client.get("a", ["x"], timeout_seconds=10) != [None]
            finally:
                held.set()
            assert all(report.ok for one in verifications for report in one.result(60))
