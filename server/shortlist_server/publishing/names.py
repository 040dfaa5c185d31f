"""What a published model may be called, and which files it may have. Pure functions; any thread."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from shortlist_server.errors import InvalidArgument, ModelRefused
from shortlist_server.publishing.manifest import CARD, ModelFile

MAX_FILES = 256
MAX_CARD_BYTES = 1024 * 1024
MAX_JSON_BYTES = 128 * 1024 * 1024
"""A tokenizer of 260,000 tokens takes a quarter of it."""

TEMPLATE = "chat_template.jinja"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_MODEL = re.compile(rf"({_PART})@({_PART})")
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack")


def split_model(model: str, field: str = "model") -> tuple[str, str]:
    """Name and version of a model; both are safe folder names. Raises ``InvalidArgument``."""
    found = _MODEL.fullmatch(model)
    if found is None:
        raise InvalidArgument(
            "a published model is called NAME@VERSION, each 1 to 64 of A-Z, a-z, 0-9, '_', '.' and '-', starting with a"
            " letter or digit",
            field=field,
        )
    return found[1], found[2]


def check_files(files: Sequence[ModelFile]) -> None:
    """Refuses a list of files that a server would not store.

    Raises:
        InvalidArgument: there are none or too many, or a size or checksum is none.
        ModelRefused: a file has a path or is of a kind that no model needs, comes twice, or is too large. The message
            names it.
    """
    if not 1 <= len(files) <= MAX_FILES:
        raise InvalidArgument(f"{len(files)} files, 1 to {MAX_FILES} are allowed", field="files")
    for i, file in enumerate(files):
        if file.size_bytes < 0:
            raise InvalidArgument("a size is at least 0", field=f"files[{i}].size_bytes")
        if not _DIGEST.fullmatch(file.sha256):
            raise InvalidArgument("a SHA-256 is 64 hex digits in lower case", field=f"files[{i}].sha256")
        _check_path(file, f"files[{i}].path")
    _check_distinct(files)


def _check_path(file: ModelFile, field: str) -> None:
    parts = file.path.split("/")
    if len(parts) > 2 or not all(map(_COMPONENT.fullmatch, parts)):
        raise ModelRefused(
            f"{file.path!r} is not a path that a model's file may have: give a file name, or a folder and a file name,"
            " of A-Z, a-z, 0-9, '_', '.' and '-'",
            field=field,
        )
    name, suffix = parts[-1], PurePosixPath(parts[-1]).suffix
    if suffix in _PICKLED:
        raise ModelRefused(
            f"{file.path} is not read, because such files can run code or need other libraries: save the weights as"
            " safetensors",
            field=field,
        )
    if suffix not in (".json", ".safetensors") and name not in (CARD, TEMPLATE):
        raise ModelRefused(
            f"{file.path} is of a kind that the server does not read: leave it out. It reads .safetensors and .json"
            f" files, {TEMPLATE} and {CARD}; the tokenizer must be in tokenizer.json",
            field=field,
        )
    limit = MAX_CARD_BYTES if name == CARD else MAX_JSON_BYTES if suffix != ".safetensors" else None
    if limit is not None and file.size_bytes > limit:
        raise ModelRefused(f"{file.path} has {file.size_bytes} bytes, at most {limit} are allowed", field=field)


def _check_distinct(files: Sequence[ModelFile]) -> None:
    # Compared without case, because a data folder may be on a file system that does not tell cases apart.
    seen: set[str] = set()
    folders = {file.path.partition("/")[0].casefold() for file in files if "/" in file.path}
    for file in files:
        path = file.path.casefold()
        if path in seen or path in folders:
            raise ModelRefused(f"{file.path} comes twice, or as a file and as a folder", field="files")
        seen.add(path)
