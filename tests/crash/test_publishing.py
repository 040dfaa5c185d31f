"""A server that is killed while a model is uploaded, tried or loaded: the model goes on, and is whole or not there."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist import Client, Document, PublishProgress, ShortlistError, UploadProgress
from shortlist_cli.hosting.server_process import ServerProcess

pytestmark = pytest.mark.crash

StaticModel = Callable[..., Path]
Progress = UploadProgress | PublishProgress


class Killed(Exception):
    """The server was killed."""


def serve(folder: Path) -> ServerProcess:
    return ServerProcess(folder / "data", arguments=["--embedder", "hashing"], log_path=folder / "log")


def large(folder: Path) -> Path:
    """The folder with another file, so that its upload takes several calls."""
    (folder / "extra.json").write_text('"' + "x" * 9_000_000 + '"')
    return folder


def is_uploading(progress: Progress) -> bool:
    return isinstance(progress, UploadProgress) and progress.done_bytes > 4_000_000


def is_tried(progress: Progress) -> bool:
    return isinstance(progress, PublishProgress) and "process of its own" in progress.step


@pytest.mark.parametrize("moment", [is_uploading, is_tried], ids=["while it is uploaded", "while it is tried"])
def test_killed_a_publication_goes_on_where_it_was(
    tmp_path: Path, static_model: StaticModel, moment: Callable[[Progress], bool]
) -> None:
    folder = large(static_model())
    server = serve(tmp_path)

    def kill(progress: Progress) -> None:
        if moment(progress):
            server.process.kill()
            raise Killed

    try:
        with Client(server.target) as client, pytest.raises(Killed):
            client.publish_model("words@1", folder, progress=kill)
    finally:
        server.kill()
    server = serve(tmp_path)
    try:
        with Client(server.target) as client:
            (waiting,) = client.list_models()
            assert waiting.state == "uploading"
            assert waiting.received_bytes > 4_000_000
            told: list[Progress] = []
            made = client.publish_model("words@1", folder, progress=told.append)
            sent = [one.done_bytes for one in told if isinstance(one, UploadProgress)]
            assert all(done > waiting.received_bytes for done in sent)
            check(client, made.revision)
    finally:
        server.stop()


@pytest.mark.parametrize("round", range(2))
def test_killed_at_random_a_model_is_whole_or_goes_on(tmp_path: Path, static_model: StaticModel, round: int) -> None:
    folder = large(static_model())
    server = serve(tmp_path)
    timer = threading.Timer(random.Random(round).uniform(0.02, 2.0), server.process.kill)
    timer.start()
    try:
        with Client(server.target) as client:
            client.upload_model("words@1", folder)
            client.wait_operation(client.start_publish_model("words@1").name, reconnect_seconds=0.5)
            client.delete_model("words@1")
    except ShortlistError:
        pass  # The kill came first.
    finally:
        timer.join()
        server.kill()
    server = serve(tmp_path)
    try:
        with Client(server.target) as client:
            known = list(client.list_models())
            assert [one.model for one in known] in ([], ["words@1"])
            assert all(one.state in ("uploading", "stored") and not one.problem for one in known)
            check(client, client.publish_model("words@1", folder).revision)
    finally:
        server.stop()


def check(client: Client, revision: str) -> None:
    """The model serves a collection, and can be deleted after that."""
    client.create_collection("docs")
    client.ingest(
        "docs", [Document(id="owl", text="an owl hunts"), Document(id="krill", text="whales eat krill")]
    ).finish()
    assert client.reindex("docs", embedder="words@1").embedder_revision == revision
    client.switch_generation("docs")
    client.delete_collection("docs")
    client.delete_model("words@1")
    assert list(client.list_models()) == []
