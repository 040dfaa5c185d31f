"""The files of a model's folder that a server reads, and what kind of model they are. Functions block."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from shortlist._errors import InvalidArgument
from shortlist._model_types import ModelFile, ModelKind, PublishedModel

CHUNK_BYTES = 2 * 1024 * 1024
"""Size of the pieces that are sent: well under what a message may have."""

_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"
CARD = "README.md"
_TEXTS = (CARD, "chat_template.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model on this machine: its folder, its kind and the files to upload, by path."""

    folder: Path
    kind: ModelKind
    files: tuple[ModelFile, ...]

    @property
    def size_bytes(self) -> int:
        """Size of the files."""
        return sum(file.size_bytes for file in self.files)

    def new_card(self, known: PublishedModel) -> str | None:
        """The model's card if the server has published the model with another one; else None."""
        own, theirs = (next((file for file in files if file.path == CARD), None) for files in (self.files, known.files))
        if known.state == "uploading" or own is None or (theirs is not None and own.sha256 == theirs.sha256):
            return None
        return (self.folder / CARD).read_text(encoding="utf-8", errors="replace")

    def read(self, path: str, offset: int) -> bytes:
        """A piece of a file."""
        with (self.folder / path).open("rb") as file:
            file.seek(offset)
            return file.read(CHUNK_BYTES)


def read_folder(folder: str | os.PathLike[str], kind: ModelKind | None = None) -> ModelFolder:
    """Finds the files of a model and computes their checksums.

    Weights in other forms than safetensors, exports and the state of a training are left out: a server reads none of
    them.

    Raises:
        InvalidArgument: there is no model in the folder, or its files do not tell its kind and ``kind`` is None.
    """
    root = Path(folder)
    if not (root / "config.json").is_file() and not (root / "modules.json").is_file():
        raise InvalidArgument(f"{root} is not a model: it has neither config.json nor modules.json", field="folder")
    paths = sorted({path for part in _parts(root) for path in _files(root, part)})
    files = tuple(_described(root, path) for path in paths)
    return ModelFolder(folder=root, kind=kind or _kind(root), files=files)


def _parts(root: Path) -> Iterator[PurePosixPath]:
    """The folder itself, and those that ``modules.json`` names in it."""
    yield PurePosixPath()
    modules = _json(root / "modules.json")
    for module in modules if isinstance(modules, list) else ():
        place = PurePosixPath(str(module.get("path", "")) if isinstance(module, dict) else "")
        if not place.is_absolute() and ".." not in place.parts and (root / place).is_dir():
            yield place


def _files(root: Path, part: PurePosixPath) -> Iterator[str]:
    index = _json(root / part / _INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    weights = set(map(str, shards.values())) if isinstance(shards, dict) else {_WEIGHTS}
    for file in (root / part).iterdir():
        if file.is_file() and (file.name in weights or file.name in _TEXTS or file.suffix == ".json"):
            yield str(part / file.name)


def _described(root: Path, path: str) -> ModelFile:
    with (root / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return ModelFile(path=path, size_bytes=file.tell(), sha256=digest)


def _kind(root: Path) -> ModelKind:
    stated = _json(root / "config_sentence_transformers.json")
    match stated.get("model_type") if isinstance(stated, dict) else None:
        case "CrossEncoder":
            return "reranker"
        case "SentenceTransformer":
            return "embedder"
    config = _json(root / "config.json")
    architectures = (config.get("architectures") or ()) if isinstance(config, dict) else ()
    if any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return "reranker"
    if (root / "modules.json").is_file():
        return "embedder"
    raise InvalidArgument(f"the files in {root} do not tell whether it embeds or reranks: give the kind", field="kind")


def _json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or damaged, which the server will say better."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
