"""A server that has another revision of a collection's model than the one that made its vectors, or both."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path

import grpc
import pytest

from shortlist import Client, Document, ModelMismatch, ReindexProgress
from shortlist.v1 import collection_service_pb2, collection_service_pb2_grpc
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.testing import server

OLD, NEW = "notes=hashing:64", "notes=hashing:96:2"
TEXTS = {"owl": "an owl hunts at night", "lynx": "a lynx hunts in snow", "krill": "whales eat krill"}


def notice(target: str) -> str:
    """What the server says to the operator about the collection."""
    with grpc.insecure_channel(target) as channel:
        stub = collection_service_pb2_grpc.CollectionServiceStub(channel)
        request = collection_service_pb2.GetCollectionRequest(collection="docs")
        text: str = stub.GetCollection(request, timeout=10).collection.notice
        return text


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A collection that was made with the old revision."""
    with server(tmp_path, embedders=(OLD,)) as running, Client(running.target) as client:
        client.create_collection("docs")
        client.ingest("docs", [Document(id=id, text=text) for id, text in TEXTS.items()]).finish()
        assert notice(running.target) == ""
    return tmp_path


def test_without_its_model_a_collection_is_searched_by_words_and_a_reindex_brings_it_up(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, logger="shortlist_server.rpc.health"),
        server(data_dir, embedders=(NEW,), health_interval_seconds=0.05) as running,
        Client(running.target) as client,
    ):
        found = client.search("docs", "who hunts in snow")
        assert found.hits[0].id == "lynx"
        assert [one.kind for one in found.report.degradations] == ["embedder_missing"]
        assert "hashing-1-64" in found.report.degradations[0].message
        assert "shortlist reindex" in found.report.degradations[0].message
        with pytest.raises(ModelMismatch, match="shortlist reindex"):
            client.search("docs", "who hunts", mode="dense")
        (owl,) = client.get("docs", ["owl"])
        assert owl is not None
        assert owl.text == TEXTS["owl"]
        with pytest.raises(ModelMismatch, match=r"collection 'docs'.*shortlist reindex"):
            client.ingest("docs", [Document(id="new", text="a text")]).finish()
        client.delete("docs", ids=["krill"])
        assert client.count("docs") == 2
        told = notice(running.target)
        assert all(part in told for part in ("hashing-1-64", "hashing-2-96", "shortlist reindex"))
        assert client.health()
        time.sleep(0.3)
        assert len([one for one in caplog.records if "collection 'docs'" in one.getMessage()]) == 1

        client.reindex("docs")
        client.switch_generation("docs")
        after = client.search("docs", "who hunts in snow")
        assert (after.hits[0].id, after.report.degradations) == ("lynx", ())
        assert notice(running.target) == ""
        assert client.ingest("docs", [Document(id="new", text="a text")]).finish().durable == 1


def test_with_both_revisions_the_stored_one_serves_until_the_collection_is_reindexed(data_dir: Path) -> None:
    with server(data_dir, embedders=(NEW, OLD)) as running, Client(running.target) as client:
        assert {one.revision for one in client.server_info().embedders} == {"hashing-1-64", "hashing-2-96"}
        report = client.search("docs", "who hunts in snow").report
        assert report.degradations == ()
        assert str(report.embedder) == "notes@hashing-1-64"
        assert "revision hashing-2-96 is loaded too" in notice(running.target)
        assert client.ingest("docs", [Document(id="new", text="a text")]).finish().durable == 1
        client.create_collection("fresh")
        assert client.get_collection("fresh").embedder_revision == "hashing-2-96"
        client.reindex("docs")
        client.switch_generation("docs")
        assert str(client.search("docs", "who hunts in snow").report.embedder) == "notes@hashing-2-96"
        client.roll_back_generation("docs")
        assert str(client.search("docs", "who hunts in snow").report.embedder) == "notes@hashing-1-64"


def test_workers_serve_two_revisions(data_dir: Path, tmp_path: Path) -> None:
    worker = ServerProcess(tmp_path / "worker", arguments=["--embedder", NEW, "--embedder", OLD], command="worker")
    try:
        with server(data_dir, workers=(worker.target,)) as running, Client(running.target) as client:
            assert str(client.search("docs", "who hunts in snow").report.embedder) == "notes@hashing-1-64"
            client.reindex("docs")
            client.switch_generation("docs")
            found = client.search("docs", "who hunts in snow")
            assert (found.hits[0].id, str(found.report.embedder)) == ("lynx", "notes@hashing-2-96")
    finally:
        worker.stop()


def test_a_reindex_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    documents = [Document(id=f"d{i}", text=f"text {i} " + "of many words " * 50) for i in range(3000)]
    models = ["--embedder", "old=hashing:64", "--embedder", "new=hashing:96"]
    process = ServerProcess(tmp_path / "data", arguments=models)
    kills = 0
    try:
        with Client(process.target) as client:
            client.create_collection("docs")
            client.ingest("docs", documents).finish()
            name = client.start_reindex("docs", embedder="new").name
        while True:
            with Client(process.target) as client:
                operation = client.get_operation(name)
                if operation.done:
                    break
                progress = operation.progress
                done = progress.done_documents if isinstance(progress, ReindexProgress) else 0
                if kills < 3 and done > 500 * (kills + 1):
                    process.process.send_signal(signal.SIGKILL)
                    process.stop()
                    kills += 1
                    process = ServerProcess(tmp_path / "data", arguments=models)
                else:
                    time.sleep(0.01)
        with Client(process.target) as client:
            old, new = client.generations("docs")
            assert (new.complete, new.passage_count) == (True, old.passage_count)
            client.switch_generation("docs")
            assert client.search("docs", "text 1234").hits[0].id == "d1234"
    finally:
        process.stop()
    assert kills >= 1
