"""A real server process, killed and stopped: what was acknowledged is there afterwards, and nothing else."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shortlist import Ack, AckStatus, Client, Deletion, Document
from shortlist_cli.hosting.server_process import ServerNotStarted, ServerProcess

pytestmark = pytest.mark.crash

HASHING = ["--embedder", "hashing"]


def serve(folder: Path, *arguments: str) -> ServerProcess:
    return ServerProcess(folder / "data", arguments=[*HASHING, *arguments], log_path=folder / "log")


def apply(client: Client, *changes: Document | Deletion) -> list[Ack]:
    return list(client.ingest("docs", changes))


def test_what_was_acknowledged_survives_a_kill_and_what_was_replaced_or_deleted_does_not_return(tmp_path: Path) -> None:
    server = serve(tmp_path)
    try:
        with Client(server.target) as client:
            client.create_collection("docs")
            apply(client, *[Document(id=f"d{i}", text=f"apple number {i}") for i in range(50)])
            apply(client, Document(id="d7", text="a pear instead"), Deletion(id="d8"))
    finally:
        server.kill()
    server = serve(tmp_path)
    try:
        with Client(server.target) as client:
            assert client.count("docs") == 49
            assert client.search("docs", "pear").hits[0].id == "d7"
            found = {hit.id for hit in client.search("docs", "apple", limit=100)}
            texts = {stored.id: stored.text for stored in client.list("docs")}
    finally:
        server.stop()
    assert texts == {f"d{i}": f"apple number {i}" for i in range(50) if i not in (7, 8)} | {"d7": "a pear instead"}
    assert "d8" not in found
    assert found == set(texts)


def test_a_kill_in_the_middle_of_a_stream_loses_no_acknowledged_document(tmp_path: Path) -> None:
    server = serve(tmp_path)
    durable: dict[str, int] = {}
    try:
        with Client(server.target) as client:
            client.create_collection("docs")
            run = client.ingest("docs", (Document(id=f"d{i}", text=f"text {i}") for i in range(100_000)))
            for ack in run:
                assert ack.status is AckStatus.DURABLE
                durable[ack.id] = ack.sequence
                if len(durable) == 300:
                    server.process.kill()
                    break
            run.close()
    finally:
        server.kill()
    server = serve(tmp_path)
    try:
        with Client(server.target) as client:
            stored = client.get("docs", list(durable))
            assert [document.sequence for document in stored if document is not None] == list(durable.values())
    finally:
        server.stop()


def test_sigterm_ends_the_server_cleanly_and_quickly(tmp_path: Path) -> None:
    server = serve(tmp_path)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 0
    server.kill()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log


def test_health_and_reflection_answer_as_grpcurl_asks_them(tmp_path: Path) -> None:
    server = serve(tmp_path)
    try:
        with grpc.insecure_channel(server.target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "shortlist.v1.SearchService"):
                answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            listed = next(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests, timeout=5))
            names = {service.name for service in listed.list_services_response.service}
    finally:
        server.stop()
    assert names >= {
        "shortlist.v1.SearchService",
        "shortlist.v1.DocumentService",
        "shortlist.v1.CollectionService",
        "grpc.health.v1.Health",
    }


def test_two_servers_do_not_share_a_port_or_a_data_folder(tmp_path: Path) -> None:
    server = serve(tmp_path)
    try:
        with pytest.raises(ServerNotStarted, match=r"cannot listen|in use"):
            ServerProcess(tmp_path / "other", arguments=HASHING, listen=server.target, start_seconds=30)
        with pytest.raises(ServerNotStarted, match="in use"):
            ServerProcess(tmp_path / "data", arguments=HASHING, start_seconds=30)
    finally:
        server.stop()


def test_an_unknown_model_is_refused_at_start_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ServerNotStarted) as caught:
        ServerProcess(tmp_path / "data", arguments=["--embedder", f"mine={tmp_path}/absent"], start_seconds=60)
    assert "absent" in str(caught.value)
    assert "Traceback" not in str(caught.value)
