"""The checkpoints of a training, as folders on disk.

    checkpoints/KIND/training.json       what the training was begun with
    checkpoints/KIND/base/               the model as training found it
    checkpoints/KIND/checkpoint-STEP/    a complete model folder, with the trainer's state beside the weights
    checkpoints/KIND/history.jsonl       losses and development figures, for the report

KIND is "embedder" or "reranker". ``checkpoint.json`` in a checkpoint is written last, so a folder without it is what a
kill left over. Only the newest checkpoint keeps the trainer's state, from which a training goes on. One process at a
time works on a KIND.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import write_json

BASE = "base"
BEGUN = "training.json"
_MARK = "checkpoint.json"
_HISTORY = "history.jsonl"
_PREFIX = "checkpoint-"
_STATE = "trainer_state.json"
_TRAINER_FILES = ("*.pt", "*.pth", "*.bin", _STATE, "trained.safetensors")
"""What only the trainer reads: states of optimizer, scheduler and random numbers, arguments, and adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        step: how many optimizer steps made it.
        epoch: how many epochs made it.
        development: its figure on the development split; None where it was not measured.
    """

    folder: Path
    step: int
    epoch: float
    development: float | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def begin(folder: Path, fingerprint: str) -> bool:
    """Prepares the folder of a training; empties it if it holds one that was begun with another fingerprint.

    Returns:
        Whether checkpoints of such a training were removed.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    path, removed = folder / BEGUN, False
    try:
        if folder.exists() and _read(path).get("fingerprint") != fingerprint:
            removed = bool(saved(folder))
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"fingerprint": fingerprint})
        for partial in (path for path in folder.glob(f"{_PREFIX}*") if not (path / _MARK).is_file()):
            shutil.rmtree(partial)
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error
    return removed


def write_base(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder of the model as training found it, made by ``write`` unless it is there. A kill leaves no half."""
    base = folder / BASE
    if not base.is_dir():
        partial = folder / f"{BASE}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(base)
    return base


def mark_saved(folder: Path, *, step: int, epoch: float) -> Checkpoint:
    """Declares a checkpoint complete, once all its files are written. Older ones lose the trainer's state."""
    checkpoint = Checkpoint(folder=folder, step=step, epoch=epoch)
    _write_mark(checkpoint)
    for older in saved(folder.parent):
        if older.step < step:
            _drop_trainer_files(older.folder)
    return checkpoint


def note_development(checkpoint: Checkpoint, figure: float) -> Checkpoint:
    """Records a checkpoint's figure on the development split."""
    noted = replace(checkpoint, development=figure)
    _write_mark(noted)
    return noted


def saved(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints of a training, oldest first."""
    found = []
    for path in folder.glob(f"{_PREFIX}*"):
        if mark := _read(path / _MARK):
            found.append(Checkpoint(folder=path, **mark))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def best(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The checkpoint with the best figure, the earliest of equals; None if none was measured."""
    measured = [one for one in checkpoints if one.development is not None]
    return max(measured, key=lambda one: (one.development, -one.step), default=None)


def should_stop(figures: Sequence[float | None], patience: int) -> bool:
    """Whether the last ``patience`` checkpoints all brought nothing better. Never with a patience of 0."""
    measured = [figure for figure in figures if figure is not None]
    return 0 < patience < len(measured) and max(measured[-patience:]) <= max(measured[:-patience])


def write_history(folder: Path, logged: Iterable[Mapping[str, Any]]) -> None:
    """Replaces ``history.jsonl``.

    Args:
        logged: what the trainer logged; entries with a loss are kept.
    """
    lines = [{key: entry[key] for key in ("step", "epoch", "loss")} for entry in logged if "loss" in entry]
    lines += [
        {"step": one.step, "epoch": one.epoch, "development": one.development}
        for one in saved(folder)
        if one.development is not None
    ]
    partial = folder / f"{_HISTORY}.partial"
    partial.write_text("".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["step"])))
    partial.replace(folder / _HISTORY)


def logged(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """What the trainer had logged when it saved the newest checkpoint."""
    return list(_read(checkpoint.folder / _STATE).get("log_history", ()))


def copy_model(source: Path, target: Path) -> None:
    """Copies the files of a model, without those of the trainer, into a folder that does not exist yet."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_TRAINER_FILES, _MARK))


def _write_mark(checkpoint: Checkpoint) -> None:
    mark = {"step": checkpoint.step, "epoch": checkpoint.epoch, "development": checkpoint.development}
    write_json(checkpoint.folder / _MARK, mark)


def _drop_trainer_files(folder: Path) -> None:
    for pattern in _TRAINER_FILES:
        for path in folder.glob(pattern):
            path.unlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
