"""The folder of published models: uploads go on, publications are whole or not there, whatever is interrupted."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from shortlist_server.errors import (
    DataCorrupted,
    InvalidArgument,
    ModelExists,
    ModelNotFound,
    ModelNotReady,
    ModelRefused,
    OutOfSpace,
)
from shortlist_server.publishing.manifest import MANIFEST_FILE, Manifest, ModelFile, ModelKind
from shortlist_server.publishing.shelf import ModelShelf
from shortlist_server.storage.disk.files import Files

MODEL = "books@1"
CONTENTS = {
    "config.json": b'{"hidden": 4}',
    "1_Pooling/config.json": b"{}",
    "model.safetensors": b"w" * 1000,
    "README.md": b"# Books",
    "empty.json": b"",
}


def described(contents: Mapping[str, bytes]) -> tuple[ModelFile, ...]:
    return tuple(
        ModelFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in contents.items()
    )


def opened(
    folder: Path, files: Files | None = None, *, max_bytes: int = 1 << 20, min_free_bytes: int = 0
) -> ModelShelf:
    return ModelShelf(folder / "models", max_bytes=max_bytes, min_free_bytes=min_free_bytes, files=files)


def start(shelf: ModelShelf, contents: Mapping[str, bytes] = CONTENTS, model: str = MODEL) -> Manifest:
    return shelf.start_upload(model, ModelKind.EMBEDDER, described(contents))


def upload(shelf: ModelShelf, contents: Mapping[str, bytes] = CONTENTS, model: str = MODEL) -> None:
    """Uploads what is missing, in pieces of 300 bytes."""
    received = shelf.received(start(shelf, contents, model))
    for path, data in contents.items():
        while received[path] < len(data):
            at = received[path]
            received[path] = shelf.append(model, path, at, data[at : at + 300])


def publish(shelf: ModelShelf, model: str = MODEL) -> Manifest:
    with shelf.holding(model):
        shelf.check(model)
        return shelf.publish(model, revision="r1", seconds=1000.0)


def contents_of(shelf: ModelShelf, model: str = MODEL) -> dict[str, bytes]:
    folder = shelf.folder_of(model)
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_an_uploaded_model_is_published_with_its_card(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    made = publish(shelf)
    assert (made.revision, made.publish_seconds, made.size_bytes) == ("r1", 1000.0, 1022)
    for one in (shelf, opened(tmp_path)):
        assert one.published() == [made]
        assert one.folder_of(MODEL) == tmp_path / "models" / "books" / "1"
        assert contents_of(one) == CONTENTS
        assert one.card(made) == "# Books"


def test_only_the_owner_can_read_what_is_stored(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    publish(shelf)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "models").rglob("*")}
    assert modes == {0o700, 0o600}


def test_an_upload_goes_on_where_it_was_also_after_a_restart(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    start(shelf)
    assert shelf.append(MODEL, "model.safetensors", 0, b"w" * 400) == 400
    again = opened(tmp_path)
    assert again.received(start(again)) == {path: 400 if path == "model.safetensors" else 0 for path in CONTENTS}
    upload(again)
    publish(again)
    assert contents_of(again) == CONTENTS


def test_a_piece_that_comes_twice_changes_nothing(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    start(shelf)
    assert shelf.append(MODEL, "model.safetensors", 0, b"w" * 400) == 400
    assert shelf.append(MODEL, "model.safetensors", 0, b"w" * 400) == 400
    assert shelf.append(MODEL, "model.safetensors", 300, b"w" * 200) == 500
    upload(shelf)
    publish(shelf)
    assert shelf.append(MODEL, "model.safetensors", 0, b"w" * 400) == 1000
    assert contents_of(shelf) == CONTENTS


def test_a_piece_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    start(shelf)
    with pytest.raises(InvalidArgument, match="has 0 bytes of model") as refused:
        shelf.append(MODEL, "model.safetensors", 1, b"w")
    assert refused.value.metadata == {"received_bytes": "0"}
    with pytest.raises(InvalidArgument, match="beyond"):
        shelf.append(MODEL, "model.safetensors", 0, b"w" * 1001)
    for path in ("other.json", "../config.json", MANIFEST_FILE):
        with pytest.raises(InvalidArgument, match="none of the files"):
            shelf.append(MODEL, path, 0, b"{}")
    with pytest.raises(ModelNotFound):
        shelf.append("books@2", "config.json", 0, b"{}")


def test_an_unfinished_upload_cannot_be_published(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    start(shelf)
    with pytest.raises(ModelNotReady, match=r"of config.json 0 of 13 bytes"):
        publish(shelf)


def test_a_file_that_was_damaged_on_its_way_is_named_and_sent_again(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    path = shelf.folder_of(MODEL) / "model.safetensors"
    path.write_bytes(b"w" * 999 + b"x")
    with pytest.raises(ModelRefused, match=r"model\.safetensors was damaged"):
        publish(shelf)
    assert shelf.received(start(shelf))["model.safetensors"] == 0
    upload(shelf)
    publish(shelf)
    assert contents_of(shelf) == CONTENTS


def test_a_version_never_changes_but_for_its_card(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    made = publish(shelf)
    assert start(shelf) == made
    assert start(shelf, {**CONTENTS, "README.md": b"# Other"}) == made
    with pytest.raises(ModelExists, match="another version"):
        start(shelf, {**CONTENTS, "config.json": b"{}"})
    with pytest.raises(ModelExists):
        shelf.start_upload(MODEL, ModelKind.RERANKER, described(CONTENTS))
    with shelf.holding(MODEL):
        changed = shelf.replace_card(MODEL, b"# Newer card")
    for one in (shelf, opened(tmp_path)):
        assert one.card(changed) == "# Newer card"
        assert one.find(MODEL) == changed
        assert contents_of(one) == {**CONTENTS, "README.md": b"# Newer card"}
        one.verify(changed)


def test_an_upload_of_other_files_replaces_an_unfinished_one(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    other = {"config.json": b"{}", "model.safetensors": b"v" * 10}
    assert set(shelf.received(start(shelf, other)).values()) == {0}
    upload(shelf, other)
    publish(shelf)
    assert contents_of(shelf) == other


def test_models_and_uploads_together_stay_within_their_limit(tmp_path: Path) -> None:
    shelf = opened(tmp_path, max_bytes=2100)
    upload(shelf)
    publish(shelf)
    start(shelf, model="books@2")
    with pytest.raises(OutOfSpace, match="max_model_bytes") as refused:
        start(shelf, model="books@3")
    assert refused.value.metadata["limit"] == "2100"
    assert [one.model for one in shelf.manifests()] == ["books@1", "books@2"]
    shelf.remove("books@2")
    start(shelf, model="books@3")


def test_an_upload_leaves_the_disk_some_room(tmp_path: Path) -> None:
    with pytest.raises(OutOfSpace, match="free some space"):
        start(opened(tmp_path, min_free_bytes=1 << 62))


def test_a_held_model_is_left_alone(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    with shelf.holding(MODEL):
        for change in (
            lambda: shelf.remove(MODEL),
            lambda: shelf.append(MODEL, "config.json", 0, b"{}"),
            lambda: start(shelf, {"config.json": b"{}"}),
            lambda: shelf.holding(MODEL).__enter__(),
        ):
            with pytest.raises(ModelNotReady):
                change()
        assert start(shelf).model == MODEL
    shelf.remove(MODEL)


def test_a_removed_model_leaves_nothing(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    publish(shelf)
    upload(shelf, model="books@2")
    shelf.remove(MODEL)
    shelf.remove("books@2")
    with pytest.raises(ModelNotFound):
        shelf.remove(MODEL)
    assert [path for path in (tmp_path / "models").rglob("*") if path.is_file()] == []
    assert opened(tmp_path).manifests() == []


def test_a_changed_file_of_a_published_model_is_noticed(tmp_path: Path) -> None:
    shelf = opened(tmp_path)
    upload(shelf)
    made = publish(shelf)
    shelf.verify(made)
    (shelf.folder_of(MODEL) / "model.safetensors").write_bytes(b"v" * 1000)
    with pytest.raises(DataCorrupted, match=r"model\.safetensors is not the file"):
        shelf.verify(made)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_damaged_manifest_hides_its_model_and_no_other(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = opened(tmp_path)
    for model in (MODEL, "books@2"):
        upload(shelf, model=model)
        publish(shelf, model)
    path = shelf.folder_of(MODEL) / MANIFEST_FILE
    path.write_text(damage)
    again = opened(tmp_path)
    assert [one.model for one in again.published()] == ["books@2"]
    assert str(path) in caplog.text


class Stopped(BaseException):
    """Stands for the end of the process."""


class Stopping(Files):
    """Ends the process at the n-th operation on the disk: before it, and with it the operation is not done."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def _passed(self) -> None:
        self.count += 1
        if self.count >= self.at:
            raise Stopped

    def make_folder(self, path: Path) -> None:
        self._passed()
        super().make_folder(path)

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self._passed()
        super().write(path, data)

    def sync(self, path: Path) -> None:
        self._passed()
        super().sync(path)

    def sync_folder(self, path: Path) -> None:
        self._passed()
        super().sync_folder(path)

    def rename(self, source: Path, target: Path) -> None:
        self._passed()
        super().rename(source, target)

    def remove_tree(self, path: Path) -> None:
        self._passed()
        super().remove_tree(path)


def operations_of(folder: Path) -> int:
    """How many operations on the disk it takes to upload, publish, give another card and remove."""
    files = Stopping(at=1 << 30)
    whole(opened(folder, files))
    return files.count


def whole(shelf: ModelShelf) -> None:
    upload(shelf)
    publish(shelf)
    with shelf.holding(MODEL):
        shelf.replace_card(MODEL, b"# Newer card")
    shelf.remove(MODEL)


def test_stopped_at_any_operation_a_model_is_whole_or_goes_on_as_an_upload_or_is_gone(tmp_path: Path) -> None:
    states = set()
    for at in range(1, operations_of(tmp_path / "counted") + 1):
        folder = tmp_path / str(at)
        with pytest.raises(Stopped):
            whole(opened(folder, Stopping(at)))
        shelf = opened(folder)
        found = {one.model: one for one in shelf.manifests()}
        if not found:
            states.add("gone")
        elif shelf.published():
            states.add("published")
            assert contents_of(shelf) in (CONTENTS, {**CONTENTS, "README.md": b"# Newer card"})
            shelf.verify(found[MODEL])
            assert json.loads((shelf.folder_of(MODEL) / MANIFEST_FILE).read_bytes())["revision"] == "r1"
        else:
            states.add("upload")
            assert (found[MODEL].publish_seconds, found[MODEL].revision) == (0.0, "")
        # Whatever there was, the same steps lead to the same end.
        if not shelf.published():
            upload(shelf)
            publish(shelf)
        shelf.verify(shelf.find(MODEL))
        shelf.remove(MODEL)
        assert opened(folder).manifests() == []
    assert states == {"gone", "published", "upload"}
