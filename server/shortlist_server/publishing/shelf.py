"""The folder of published models and of uploads.

    <data_dir>/published-models/NAME/VERSION/           a published model: its files and its manifest
    <data_dir>/published-models/.uploads/NAME@VERSION/  an upload: its manifest, and of each file what has come
    <data_dir>/published-models/.removed/               what is being removed

A model is published by renaming its complete, synced folder, so it is there as a whole or not at all. All methods
block; any thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from shortlist_server.domain import NEVER, Cancellation
from shortlist_server.errors import (
    DataCorrupted,
    InvalidArgument,
    ModelExists,
    ModelNotFound,
    ModelNotReady,
    ModelRefused,
    OutOfSpace,
    Unavailable,
)
from shortlist_server.publishing.manifest import (
    CARD,
    MANIFEST_FILE,
    Manifest,
    ModelFile,
    ModelKind,
    manifest_bytes,
    read_manifest,
)
from shortlist_server.publishing.names import check_files, split_model
from shortlist_server.storage.disk.files import FOLDER_MODE, Files, new_file

logger = logging.getLogger(__name__)

FOLDER = "published-models"
UPLOADS = ".uploads"
REMOVED = ".removed"

_READ_BYTES = 1 << 20


class ModelShelf:
    """Takes uploads, keeps published models, and removes both.

    Args:
        folder: the folder of published models; made on first need.
        max_bytes: most bytes of all models and uploads together.
        min_free_bytes: free disk space that an upload must leave.
    """

    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int, files: Files | None = None) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._files = files or Files()
        self._lock = threading.RLock()
        self._held: set[str] = set()
        self._published: dict[str, Manifest] = {}
        self._uploads: dict[str, Manifest] = {}
        self._read()

    def _read(self) -> None:
        """Reads what is there, and removes what a stopped process left."""
        shutil.rmtree(self._folder / REMOVED, ignore_errors=True)
        for found, folders in (
            (self._published, sorted(self._folder.glob("[!.]*/*"))),
            (self._uploads, sorted((self._folder / UPLOADS).glob("*"))),
        ):
            for folder in folders:
                try:
                    manifest = read_manifest(folder)
                except DataCorrupted as error:
                    logger.warning("%s", error.message)
                    continue
                # A process that stopped in the middle of a publication may have left the time in an upload.
                if found is self._uploads:
                    manifest = replace(manifest, revision="", publish_seconds=0.0)
                found[manifest.model] = manifest

    def published(self) -> Sequence[Manifest]:
        """The published models, by name and version."""
        with self._lock:
            return [self._published[model] for model in sorted(self._published)]

    def manifests(self) -> Sequence[Manifest]:
        """The published models and the uploads, by name and version."""
        with self._lock:
            found = self._uploads | self._published
            return [found[model] for model in sorted(found)]

    def find(self, model: str) -> Manifest:
        """The published model or the upload. Raises ``ModelNotFound``."""
        split_model(model)
        with self._lock:
            found = self._published.get(model) or self._uploads.get(model)
        if found is None:
            raise ModelNotFound(
                f"there is no published model {model!r}: 'shortlist models list' shows them", metadata={"model": model}
            )
        return found

    def folder_of(self, model: str) -> Path:
        """Where a model or an upload is."""
        name, version = split_model(model)
        published = model in self._published
        return self._folder / name / version if published else self._folder / UPLOADS / model

    def received(self, manifest: Manifest) -> dict[str, int]:
        """How many bytes of each file are there, by path."""
        if manifest.publish_seconds:
            return {file.path: file.size_bytes for file in manifest.files}
        folder = self.folder_of(manifest.model)
        return {file.path: _size(folder / file.path) for file in manifest.files}

    def card(self, manifest: Manifest) -> str:
        """The text of the model's README.md; "" if there is none yet."""
        file = self.folder_of(manifest.model) / CARD
        return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""

    @contextlib.contextmanager
    def holding(self, model: str) -> Iterator[None]:
        """Keeps a model as it is: others may not change, publish or remove it. Raises ``ModelNotReady``."""
        with self._lock:
            self._check_free(model)
            self._held.add(model)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(model)

    def start_upload(self, model: str, kind: ModelKind, files: tuple[ModelFile, ...]) -> Manifest:
        """Begins an upload, or finds one of the same files, or the published model.

        Raises:
            InvalidArgument, ModelRefused: the name or a file is not allowed.
            ModelExists: other files were published under this name.
            ModelNotReady: an upload of other files is just being published.
            OutOfSpace: the models would exceed their limit, or the disk has no room.
        """
        split_model(model)
        check_files(files)
        with self._lock, self._explained():
            known = self._published.get(model)
            if known is not None and not known.same_files(kind, files):
                raise ModelExists(
                    f"model {model!r} was published with other files: publish these under another version",
                    metadata={"model": model},
                )
            known = known or self._uploads.get(model)
            if known is not None and known.same_files(kind, files):
                return known
            if known is not None:
                self.remove(model)
            manifest = Manifest(model=model, kind=kind, files=files)
            self._check_room(manifest)
            self._make_upload(manifest)
            self._uploads[model] = manifest
            return manifest

    def append(self, model: str, path: str, offset: int, data: bytes) -> int:
        """Appends to a file of an upload; what is there already is left as it is.

        Returns:
            The bytes of the file that are there.

        Raises:
            ModelNotFound: there is no such upload.
            ModelNotReady: it is just being published.
            InvalidArgument: the model has no such file, or the data begins behind its end or goes beyond its size.
            OutOfSpace: the disk is full.
        """
        manifest = self.find(model)
        file = manifest.file(path)
        if file is None:
            raise InvalidArgument(f"{path!r} is none of the files with which the upload was started", field="path")
        with self._lock, self._explained():
            if model in self._published:
                return file.size_bytes
            self._check_free(model)
            target = self.folder_of(model) / path
            size = _size(target)
            if not 0 <= offset <= size:
                raise InvalidArgument(
                    f"the server has {size} bytes of {path}: go on there",
                    field="offset",
                    metadata={"received_bytes": str(size)},
                )
            if offset + len(data) > file.size_bytes:
                raise InvalidArgument(f"{path} has {file.size_bytes} bytes, and the data goes beyond", field="data")
            if new := data[size - offset :]:
                with target.open("ab") as out:
                    out.write(new)
            return size + len(new)

    def check(self, model: str, cancellation: Cancellation = NEVER) -> None:
        """Compares an upload with its checksums, and syncs it. Call it while ``holding`` the model.

        Raises:
            ModelNotReady: a part of a file is missing.
            ModelRefused: a file is not the one that its checksum is of; it is emptied, to be uploaded again.
            OperationCancelled: it was cancelled.
        """
        manifest, folder = self.find(model), self.folder_of(model)
        received = self.received(manifest)
        for file in manifest.files:
            if received[file.path] < file.size_bytes:
                raise ModelNotReady(
                    f"of {file.path} {received[file.path]} of {file.size_bytes} bytes were uploaded: upload the rest",
                    metadata={"model": model, "file": file.path},
                )
        for file in manifest.files:
            path = folder / file.path
            if _digest(path, cancellation) != file.sha256:
                path.write_bytes(b"")
                raise ModelRefused(
                    f"{file.path} was damaged on its way, because it is not what its checksum is of: upload it again",
                    metadata={"model": model, "file": file.path},
                )
            self._files.sync(path)
        for place in {(folder / file.path).parent for file in manifest.files}:
            self._files.sync_folder(place)

    def verify(self, manifest: Manifest) -> None:
        """Compares a published model with its checksums. Raises ``DataCorrupted``, which names the file."""
        # A crash may have come between the change of a card and that of the manifest; nothing depends on the card.
        for file in (one for one in manifest.files if one.path != CARD):
            path = self.folder_of(manifest.model) / file.path
            if not path.is_file() or _digest(path, NEVER) != file.sha256:
                raise DataCorrupted(
                    f"{path} is not the file that was published: delete model {manifest.model!r}, and publish it again"
                )

    def publish(self, model: str, *, revision: str, seconds: float) -> Manifest:
        """Makes a checked upload a published model, durably. Call it while ``holding`` the model."""
        with self._lock, self._explained():
            upload = self.folder_of(model)
            manifest = replace(self._uploads[model], revision=revision, publish_seconds=seconds)
            self._replace(upload / MANIFEST_FILE, manifest_bytes(manifest))
            name, version = split_model(model)
            target = self._folder / name / version
            if not target.parent.exists():
                self._files.make_folder(target.parent)
                self._files.sync_folder(self._folder)
            self._files.rename(upload, target)
            self._files.sync_folder(target.parent)
            self._files.sync_folder(upload.parent)
            del self._uploads[model]
            self._published[model] = manifest
            return manifest

    def replace_card(self, model: str, card: bytes) -> Manifest:
        """Replaces the card of a published model, durably. Call it while ``holding`` the model."""
        with self._lock, self._explained():
            folder = self.folder_of(model)
            self._replace(folder / CARD, card)
            file = ModelFile(path=CARD, size_bytes=len(card), sha256=hashlib.sha256(card).hexdigest())
            manifest = self._published[model] = self._published[model].with_file(file)
            self._replace(folder / MANIFEST_FILE, manifest_bytes(manifest))
            return manifest

    def remove(self, model: str) -> None:
        """Removes a model or an upload, durably. Raises ``ModelNotFound`` and ``ModelNotReady``."""
        self.find(model)
        with self._lock, self._explained():
            self._check_free(model)
            self.discard(model)

    def discard(self, model: str) -> None:
        """What ``remove`` does, for the one who is ``holding`` the model."""
        with self._lock, self._explained():
            folder = self.folder_of(model)
            self._make_folders(REMOVED)
            removed = self._folder / REMOVED / uuid.uuid4().hex
            self._files.rename(folder, removed)
            self._files.sync_folder(folder.parent)
            self._published.pop(model, None)
            self._uploads.pop(model, None)
        self._files.remove_tree(removed)

    def _check_free(self, model: str) -> None:
        if model in self._held:
            raise ModelNotReady(
                f"model {model!r} is just being published or removed: wait for the end of that operation",
                metadata={"model": model},
            )

    def _check_room(self, manifest: Manifest) -> None:
        needed = manifest.size_bytes
        taken = sum(one.size_bytes for one in (*self._published.values(), *self._uploads.values()))
        if taken + needed > self._max_bytes:
            raise OutOfSpace(
                f"the model has {needed} bytes, and the published models and uploads have {taken} of the"
                f" {self._max_bytes} that max_model_bytes allows: delete a model, or raise that setting",
                metadata={"setting": "max_model_bytes", "limit": str(self._max_bytes), "needed": str(needed)},
            )
        self._make_folders(UPLOADS)
        free = shutil.disk_usage(self._folder).free
        if free < needed + self._min_free_bytes:
            raise OutOfSpace(
                f"the model has {needed} bytes, and the disk of {self._folder} has {free} free, of which"
                f" {self._min_free_bytes} must stay: free some space"
            )

    def _make_upload(self, manifest: Manifest) -> None:
        folder = self._folder / UPLOADS / manifest.model
        self._files.remove_tree(folder)
        self._files.make_folder(folder)
        for place in {(folder / file.path).parent for file in manifest.files} - {folder}:
            self._files.make_folder(place)
        for file in manifest.files:
            new_file(folder / file.path)
        # Last, because an upload without a manifest is a leftover.
        self._replace(folder / MANIFEST_FILE, manifest_bytes(manifest))
        self._files.sync_folder(folder.parent)

    def _make_folders(self, name: str) -> None:
        self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        (self._folder / name).mkdir(mode=FOLDER_MODE, exist_ok=True)

    def _replace(self, path: Path, content: bytes) -> None:
        """Writes a file as a whole, durably."""
        new = path.with_name(f".{path.name}.new")
        self._files.write(new, content)
        self._files.sync(new)
        self._files.rename(new, path)
        self._files.sync_folder(path.parent)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns failures of the disk into errors for the caller."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"the disk of {self._folder} is full: free some space") from error
            raise Unavailable(f"{self._folder} cannot be written ({error.strerror or error}): see to it") from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digest(path: Path, cancellation: Cancellation) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            cancellation.check()
            digest.update(data)
    return digest.hexdigest()
