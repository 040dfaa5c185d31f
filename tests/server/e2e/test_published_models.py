"""Models that are published to a running server: from the upload to the search, over restarts, and away again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist import (
    AsyncClient,
    Client,
    CollectionConfig,
    Document,
    InvalidArgument,
    ModelExists,
    ModelInUse,
    ModelNotFound,
    ModelNotReady,
    ModelRefused,
    ModelsElsewhere,
    OutOfSpace,
    PublishProgress,
    UploadProgress,
)
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.testing import server

StaticModel = Callable[..., Path]

TEXTS = {"owl": "an owl hunts at night", "lynx": "a lynx hunts in snow", "krill": "whales eat krill"}


def fill(client: Client) -> None:
    client.create_collection("docs")
    client.ingest("docs", [Document(id=id, text=text) for id, text in TEXTS.items()]).finish()


def test_a_published_embedder_serves_a_collection_also_after_a_restart(
    tmp_path: Path, static_model: StaticModel
) -> None:
    folder = static_model()
    told: list[UploadProgress | PublishProgress] = []
    with server(tmp_path / "data") as running, Client(running.target) as client:
        fill(client)
        made = client.publish_model("words@1", folder, progress=told.append)
        assert (made.model, made.kind, made.state, made.number_format) == ("words@1", "embedder", "loaded", "float32")
        assert made.received_bytes == made.size_bytes == sum(file.size_bytes for file in made.files)
        uploads = [one for one in told if isinstance(one, UploadProgress)]
        assert uploads[-1].done_bytes == uploads[-1].total_bytes == made.size_bytes
        assert any(isinstance(one, PublishProgress) for one in told)
        assert [one.name for one in client.server_info().embedders] == ["hashing", "words@1"]

        new = client.reindex("docs", embedder="words@1")
        assert (new.embedder, new.embedder_revision) == ("words@1", made.revision)
        client.switch_generation("docs")
        client.drop_generation("docs", 1)
        found = client.search("docs", "who hunts in snow", mode="dense")
        assert found.hits[0].id == "lynx"
        assert found.report.embedder is not None and found.report.embedder.name == "words@1"
        assert client.backup("monday").collections[0].models == ("words@1",)
        assert next(iter(client.list_backups())).collections[0].models == ("words@1",)
        with pytest.raises(ModelInUse, match="'docs'"):
            client.delete_model("words@1")
        (listed,) = client.list_models()
        assert (listed.collections, listed.files, listed.card) == (("docs",), (), "")
        assert client.get_model("words@1").card == "# Words, seed 1\n"
        client.publish_model("unused@1", folder)
        assert client.search("docs", "who hunts in snow", mode="dense").hits[0].id == "lynx"

    with server(tmp_path / "data") as running, Client(running.target) as client:
        assert client.search("docs", "who hunts in snow", mode="dense").hits == found.hits
        assert {one.model: one.state for one in client.list_models()} == {"unused@1": "stored", "words@1": "loaded"}
        with pytest.raises(ModelNotFound, match="shortlist models load unused@1"):
            client.create_collection("other", CollectionConfig(embedder="unused@1"))
        assert client.publish_model("unused@1").state == "loaded"
        client.delete_model("unused@1")
        assert [one.model for one in client.list_models()] == ["words@1"]
        assert [one.name for one in client.server_info().embedders] == ["hashing", "words@1"]
        client.delete_collection("docs")
        client.delete_model("words@1")
        assert [one.name for one in client.server_info().embedders] == ["hashing"]
        with pytest.raises(ModelNotFound):
            client.get_model("words@1")


def test_what_is_damaged_is_refused_by_its_name_and_leaves_nothing(tmp_path: Path, static_model: StaticModel) -> None:
    folder = static_model()
    weights = folder / "0_StaticEmbedding" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    settings = {"embedders": ("hashing", "own@1=hashing:64")}
    with server(tmp_path / "data", **settings) as running, Client(running.target) as client:
        with pytest.raises(ModelRefused, match=r"^0_StaticEmbedding/model\.safetensors has") as refused:
            client.publish_model("words@1", folder)
        assert str(tmp_path) not in refused.value.message
        assert list(client.list_models()) == []
        with pytest.raises(InvalidArgument, match="NAME@VERSION"):
            client.publish_model("../words@1", folder)
        with pytest.raises(ModelNotFound):
            client.publish_model("words@1")
        with pytest.raises(ModelExists, match="started with"):
            client.publish_model("own@1", folder)


def test_a_published_model_is_the_one_that_a_server_would_have_been_started_with(
    tmp_path: Path, static_model: StaticModel
) -> None:
    folder = static_model()
    with server(tmp_path / "one") as running, Client(running.target) as client:
        published = client.publish_model("words@1", folder)
    with server(tmp_path / "two", embedders=(f"words={folder}",)) as running, Client(running.target) as client:
        assert client.server_info().embedders[0].revision == published.revision


def test_other_files_need_another_version_and_the_card_does_not(tmp_path: Path, static_model: StaticModel) -> None:
    folder, other = static_model(), static_model("other", seed=2)
    with server(tmp_path / "data") as running, Client(running.target) as client:
        first = client.publish_model("words@1", folder)
        with pytest.raises(ModelExists, match="another version"):
            client.publish_model("words@1", other)
        second = client.publish_model("words@2", other)
        assert first.revision != second.revision
        (folder / "README.md").write_text("# Words, measured\n")
        assert client.publish_model("words@1", folder).revision == first.revision
        assert client.get_model("words@1").card == "# Words, measured\n"
        assert client.update_model_card("words@2", "# Two").card == "# Two"
        assert client.get_model("words@2").card == "# Two"


def test_an_upload_that_was_broken_off_goes_on(tmp_path: Path, static_model: StaticModel) -> None:
    folder = static_model(dimension=4096)
    (folder / "extra.json").write_text('"' + "x" * 5_000_000 + '"')

    class Interrupted(Exception):
        pass

    def interrupt(progress: UploadProgress) -> None:
        if progress.done_bytes > 3_000_000:
            raise Interrupted

    with server(tmp_path / "data") as running, Client(running.target) as client:
        with pytest.raises(Interrupted):
            client.upload_model("words@1", folder, progress=interrupt)
        with pytest.raises(ModelNotReady, match="upload the rest"):
            client.publish_model("words@1")
    with server(tmp_path / "data") as running, Client(running.target) as client:
        (waiting,) = client.list_models()
        assert waiting.state == "uploading"
        assert 3_000_000 < waiting.received_bytes < waiting.size_bytes
        told: list[UploadProgress | PublishProgress] = []
        assert client.publish_model("words@1", folder, progress=told.append).state == "loaded"
        assert isinstance(told[0], UploadProgress)
        assert told[0].done_bytes > waiting.received_bytes


def test_the_published_models_stay_within_their_limit(tmp_path: Path, static_model: StaticModel) -> None:
    with server(tmp_path / "data", max_model_bytes=0) as running, Client(running.target) as client:
        with pytest.raises(OutOfSpace, match="max_model_bytes"):
            client.publish_model("words@1", static_model())
        assert list(client.list_models()) == []


def test_a_model_that_was_damaged_on_the_disk_does_not_keep_the_server_from_starting(
    tmp_path: Path, static_model: StaticModel
) -> None:
    with server(tmp_path / "data") as running, Client(running.target) as client:
        fill(client)
        client.publish_model("words@1", static_model())
        client.reindex("docs", embedder="words@1")
        client.switch_generation("docs")
    weights = tmp_path / "data" / "published-models" / "words" / "1" / "0_StaticEmbedding" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)
    with server(tmp_path / "data") as running, Client(running.target) as client:
        (damaged,) = client.list_models()
        assert damaged.state == "stored"
        assert "model.safetensors is not the file that was published" in damaged.problem
        found = client.search("docs", "who hunts in snow")
        assert found.hits[0].id == "lynx"
        assert [one.kind for one in found.report.degradations] == ["embedder_missing"]
        client.roll_back_generation("docs")
        assert client.search("docs", "who hunts in snow").report.degradations == ()


def test_while_a_collection_cannot_be_read_no_model_is_deleted(tmp_path: Path, static_model: StaticModel) -> None:
    with server(tmp_path / "data") as running, Client(running.target) as client:
        fill(client)
        client.publish_model("words@1", static_model())
    database = tmp_path / "data" / "collections" / "docs" / "collection.db"
    database.write_bytes(b"\0" * database.stat().st_size)
    with server(tmp_path / "data") as running, Client(running.target) as client:
        with pytest.raises(ModelInUse, match="'docs' may use model 'words@1' and cannot be read"):
            client.delete_model("words@1")
        assert client.publish_model("words@1").state == "loaded"
        with pytest.raises(ModelInUse):
            client.delete_model("words@1")
        assert client.get_model("words@1").state == "loaded"
        client.delete_collection("docs")
        client.delete_model("words@1")
        assert list(client.list_models()) == []


def test_the_asyncio_client_publishes_as_well(tmp_path: Path, static_model: StaticModel) -> None:
    async def publish(target: str) -> list[str]:
        async with AsyncClient(target) as client:
            await client.publish_model("words@1", static_model())
            return [one.model async for one in client.list_models()]

    with server(tmp_path / "data") as running:
        assert asyncio.run(publish(running.target)) == ["words@1"]


def test_a_server_whose_models_run_on_workers_takes_none(tmp_path: Path, static_model: StaticModel) -> None:
    worker = ServerProcess(tmp_path / "worker", arguments=["--embedder", "hashing"], command="worker")
    try:
        with server(tmp_path / "data", workers=(worker.target,)) as running, Client(running.target) as client:
            with pytest.raises(ModelsElsewhere, match="run on workers"):
                client.publish_model("words@1", static_model())
            with pytest.raises(ModelsElsewhere):
                list(client.list_models())
    finally:
        worker.stop()
