"""Reads ``modules.json``: the steps by which a sentence-transformers model makes a vector.

Every step either does what it does in sentence-transformers, or is refused by name. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.head import Dense, Normalize, Step, read_dense
from shortlist_server.inference.layout import read_json
from shortlist_server.inference.pooling import MODES, Pooling

TRANSFORMER = "Transformer"
STATIC = "StaticEmbedding"

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """An entry of ``modules.json``: the class, and the folder with its files."""

    kind: str
    folder: Path


def read_modules(folder: Path) -> list[Module]:
    """The modules of a sentence-transformers folder, in order; empty for a plain checkpoint.

    Raises:
        ModelNotFound: the file is damaged, or names a class that is not sentence-transformers' own or a folder outside.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return []
    entries = read_json(path, list)
    modules = []
    for entry in entries:
        kind, place = (str(entry.get(key, "")) for key in ("type", "path")) if isinstance(entry, dict) else ("", "")
        if not kind.startswith("sentence_transformers."):
            raise ModelNotFound(
                f"{path} names a class of its own, {kind!r}, and code from a model's folder is never run: serve a model"
                " whose modules are sentence-transformers' own"
            )
        if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
            raise ModelNotFound(f"{path} names {place!r}, which is not inside the model's folder: copy the model anew")
        modules.append(Module(kind=kind.rpartition(".")[2], folder=folder / place))
    if not modules or modules[0].kind not in (TRANSFORMER, STATIC):
        first = modules[0].kind if modules else "nothing"
        raise ModelNotFound(f"{path} begins with {first}: serve a model that begins with {TRANSFORMER} or {STATIC}")
    return modules


def read_pooling(modules: list[Module], path: Path) -> tuple[Pooling, list[Module]]:
    """How the modules pool, and the modules after the pooling. Raises ``ModelNotFound``, which names ``path``."""
    first, *rest = modules
    if first.kind == STATIC:
        return Pooling(modes=("mean",)), rest
    if not rest or rest[0].kind != "Pooling":
        behind = rest[0].kind if rest else "nothing"
        raise ModelNotFound(
            f"{path} has {behind} behind {TRANSFORMER}, where Pooling is needed: serve a model of one vector per text"
        )
    return _pooling(rest[0].folder / "config.json"), rest[1:]


def read_head(modules: list[Module], path: Path, width: int) -> tuple[list[Step], int]:
    """The steps of the modules after the pooling, and the size of the vectors that they make.

    Args:
        path: the file that the modules come from, for messages.
        width: size of the pooled vectors.

    Raises:
        ModelNotFound: a module is unknown here, or its files are wrong.
    """
    steps: list[Step] = []
    for module in modules:
        if module.kind not in _STEPS:
            raise ModelNotFound(
                f"{path} asks for a module {module.kind}, which is not served: after the pooling there may be only"
                f" {', '.join(_STEPS)}"
            )
        step = _STEPS[module.kind](module.folder, width)
        if step is not None:
            steps.append(step)
        if isinstance(step, Dense):
            width = step.dimension
    return steps, width


def _normalize(folder: Path, width: int) -> Step:
    path = folder / "config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    if (source := config.get("module_input_name", "sentence_embedding")) != "sentence_embedding":
        raise ModelNotFound(
            f"{path} works on {source}, as in a model of many vectors per text (ColBERT): serve a model of one vector"
            " per text"
        )
    return Normalize()


def _nothing(folder: Path, width: int) -> None:
    """Dropout acts only in training."""


_STEPS: dict[str, Callable[[Path, int], Step | None]] = {
    "Dense": read_dense,
    "Normalize": _normalize,
    "Dropout": _nothing,
}


def _pooling(path: Path) -> Pooling:
    config = read_json(path)
    if "pooling_mode" in config:  # sentence-transformers 6 and later
        asked = config["pooling_mode"]
        modes = [str(mode) for mode in asked] if isinstance(asked, list) else [str(asked)]
    else:
        modes = [_FLAGS.get(flag, flag) for flag, on in config.items() if flag.startswith("pooling_mode_") and on]
        # The order of the flags in the file has no meaning. No flag at all stands for the mean.
        modes = sorted(modes, key=lambda mode: MODES.index(mode) if mode in MODES else -1) or ["mean"]
    if not modes or not set(modes) <= set(MODES):
        raise ModelNotFound(f"{path} asks for the pooling {', '.join(modes)}: only {', '.join(MODES)} are served")
    return Pooling(modes=tuple(modes), include_prompt=bool(config.get("include_prompt", True)))
