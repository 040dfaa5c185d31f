"""Figures of models, kept by the model's contents, so that no model is measured twice in a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from shortlist_adapt.folder import RunFolder, fingerprint, write_json

_MODEL_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})
_NO_PART_OF_MODELS = frozenset({"checkpoint.json", "trainer_state.json", "trained.safetensors"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a model reaches on the development split.

    Attributes:
        value: mean nDCG@10, 0 to 1.
        queries: nDCG@10 of each query, by query id.
        detail: what it was reached with, such as "weight 0.4".
        seconds: how long measuring took.
    """

    value: float
    queries: Mapping[str, float]
    detail: str = ""
    seconds: float = field(default=0.0, compare=False)


def mean(queries: Mapping[str, float], detail: str = "") -> Figure:
    """The figure of these queries."""
    return Figure(value=sum(queries.values()) / max(len(queries), 1), queries=queries, detail=detail)


def kept(folder: RunFolder, model: Path, task: str, measure: Callable[[], Figure]) -> Figure:
    """The figure of a model in a task, from the run's cache or else measured and kept there.

    Args:
        model: the model's folder; its weights and configuration name the figure, not its path.
        task: a digest of what is measured.
    """
    path = folder.cache / "figures" / f"{_digest(model, task)}.json"
    try:
        return Figure(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        started = time.monotonic()
        figure = measure()
        figure = replace(figure, seconds=time.monotonic() - started)
        write_json(path, asdict(figure))
        return figure


def _digest(model: Path, task: str) -> str:
    files = sorted(
        path
        for path in model.rglob("*")
        if path.suffix in _MODEL_SUFFIXES and path.name not in _NO_PART_OF_MODELS and path.is_file()
    )
    names = [str(path.relative_to(model)) for path in files]
    return fingerprint({"task": task, "files": names}, files)[:32]
