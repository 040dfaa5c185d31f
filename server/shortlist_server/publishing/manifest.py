"""The record of a published model or an upload, and its file. Values; any thread."""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist_server.errors import DataCorrupted

MANIFEST_FILE = ".manifest.json"
"""Begins with a dot, as no file of a model may."""

CARD = "README.md"
"""The model's card: the only file of a published model that may change."""

_FORMAT = 1


class ModelKind(enum.Enum):
    """What a model is."""

    EMBEDDER = "embedder"
    RERANKER = "reranker"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of a model: its path in the model's folder, its size and the hex digest of its content."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a model is made of.

    Attributes:
        model: NAME@VERSION.
        revision: its revision when it was loaded first; "" before it was published.
        publish_seconds: when it was published, in seconds since the epoch; 0 before.
    """

    model: str
    kind: ModelKind
    files: tuple[ModelFile, ...]
    revision: str = ""
    publish_seconds: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Size of its files."""
        return sum(file.size_bytes for file in self.files)

    def file(self, path: str) -> ModelFile | None:
        """The file with this path."""
        return next((file for file in self.files if file.path == path), None)

    def same_files(self, kind: ModelKind, files: tuple[ModelFile, ...]) -> bool:
        """Whether these are the files of this model, in any order. Of a published model the card may differ."""
        fixed = [{one for one in them if one.path != CARD or not self.publish_seconds} for them in (self.files, files)]
        return self.kind is kind and fixed[0] == fixed[1]

    def with_file(self, file: ModelFile) -> Manifest:
        """The same with this file in the place of the one with its path."""
        return dataclasses.replace(self, files=(*(one for one in self.files if one.path != file.path), file))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of a manifest's file."""
    values = {"format": _FORMAT, **dataclasses.asdict(manifest), "kind": manifest.kind.value}
    return json.dumps(values, indent=1).encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a model's folder. Raises ``DataCorrupted``."""
    path = folder / MANIFEST_FILE
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        if found.pop("format") != _FORMAT:
            raise ValueError("another format")
        files = tuple(ModelFile(**file) for file in found.pop("files"))
        return Manifest(**{**found, "kind": ModelKind(found["kind"]), "files": files})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataCorrupted(
            f"{path} is missing or damaged ({error}): remove {folder}, and publish the model again"
        ) from error
