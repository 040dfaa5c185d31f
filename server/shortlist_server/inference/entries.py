"""Reads the entries that name models in the settings, and checks them before any model is loaded.

Pure functions, except that they look at folders; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shortlist_server.config import DEFAULT_EMBEDDER, Config
from shortlist_server.domain import LATE_INTERACTION, NO_MODEL
from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference.hashing import DEFAULT_DIMENSION, FIRST_VARIANT, HASHING

BACKENDS = ("auto", "onnx", "torch")
DTYPES = ("auto", "int8", "float32", "bfloat16")


def parse_entry(entry: str, field: str) -> tuple[str, str]:
    """Name and source of an entry: NAME=SOURCE, or SOURCE alone. Raises ``InvalidArgument``."""
    name, separator, source = entry.partition("=")
    name = name.strip()
    if not name or (separator and not source.strip()):
        raise InvalidArgument(f"{entry!r} is not a model: use NAME=FOLDER-OR-HUB-NAME", field=field)
    return name, source.strip() if separator else name


def hashing_source(source: str) -> tuple[int, int] | None:
    """Dimension and variant of a source "hashing", "hashing:SIZE" or "hashing:SIZE:VARIANT"; None for other sources.

    Raises:
        InvalidArgument: they are no numbers, or out of range.
    """
    kind, *parts = source.split(":")
    if kind != HASHING:
        return None
    size, variant = (*parts, *("" for _ in range(2 - len(parts))))[:2]
    dimension = _number(size, DEFAULT_DIMENSION)
    number = _number(variant, FIRST_VARIANT)
    if not 16 <= dimension <= 4096 or not 1 <= number <= 255 or len(parts) > 2:
        raise InvalidArgument(
            f"{source!r} is not a hashing embedder: its dimension must be a number from 16 to 4096, and its variant one"
            " from 1 to 255",
            field="embedders",
        )
    return dimension, number


def _number(text: str, default: int) -> int:
    return (int(text) if text.isdecimal() else 0) if text else default


def check_models(config: Config) -> None:
    """Refuses settings that no model could be loaded with, as far as that shows before loading.

    Raises:
        InvalidArgument: an entry cannot be read, a model comes twice, or device, backend or dtype is unknown or
            contradicts another setting.
        ModelNotFound: a named folder does not exist, or has no ``config.json``.
    """
    _check_choice(config.backend, "backend", BACKENDS)
    _check_choice(config.dtype, "dtype", DTYPES)
    if config.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
        raise InvalidArgument(f"device is {config.device!r}: give auto, cpu or cuda", field="device")
    if config.device.startswith("cuda") and config.backend == "onnx":
        raise InvalidArgument(
            "backend onnx runs on the CPU, but device is cuda: give backend torch or auto, or device cpu",
            field="backend",
        )
    if config.workers:
        return
    _check_entries(config.embedders, "embedders", built_in=(NO_MODEL, DEFAULT_EMBEDDER))
    _check_entries(config.rerankers, "rerankers", built_in=(NO_MODEL, LATE_INTERACTION))


def _check_choice(value: str, field: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidArgument(f"{field} is {value!r}: give {', '.join(choices[:-1])} or {choices[-1]}", field=field)


def _check_entries(entries: Sequence[str], field: str, *, built_in: Sequence[str]) -> None:
    sources: dict[str, set[str]] = {}
    for entry in entries:
        name, source = parse_entry(entry, field)
        known = sources.setdefault(name, set())
        # Of an embedder several revisions may be served under one name.
        if name != NO_MODEL and (source in known if field == "embedders" else known):
            raise InvalidArgument(f"two {field} are called {name!r}", field=field)
        known.add(source)
        if source in built_in or (field == "embedders" and hashing_source(source)):
            continue
        folder = Path(source).expanduser()
        if folder.is_dir() and not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise ModelNotFound(f"{folder / 'config.json'} is missing: the folder is not a complete model")
        if not folder.is_dir() and source.startswith((".", "/", "~")):
            raise ModelNotFound(f"there is no model folder {source}: correct the path, or copy the model there")
