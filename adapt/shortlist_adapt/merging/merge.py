"""The step that merges the checkpoints of a training into the model to publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint, write_json
from shortlist_adapt.merging.settings import MergeSettings
from shortlist_adapt.merging.sweep import Measure, Recipe, Sweep, first_recipes, sweep
from shortlist_adapt.progress import Progress
from shortlist_adapt.settings import to_json
from shortlist_adapt.training import checkpoints
from shortlist_adapt.training.checkpoints import Checkpoint
from shortlist_adapt.training.settings import EmbedderTraining, RerankerTraining

if TYPE_CHECKING:
    from torch import Tensor

MEASURES = {"embedder": "dense nDCG@10", "reranker": "final nDCG@10"}
"""What each kind of model is chosen by."""


def merge_embedder(
    folder: RunFolder, settings: MergeSettings, training: EmbedderTraining, *, seed: int, progress: Progress
) -> Mapping[str, Any]:
    """Merges the embedder's checkpoints; see ``merge``.

    Args:
        training: how it was trained: it is measured as it was then.
        seed: the seed of the run.
    """
    from shortlist_adapt.training.embedder import embedder_measure

    _saved(folder, "embedder")
    return merge(folder, "embedder", settings, embedder_measure(folder, training, seed=seed), progress)


def merge_reranker(
    folder: RunFolder, settings: MergeSettings, training: RerankerTraining, *, progress: Progress
) -> Mapping[str, Any]:
    """Merges the reranker's checkpoints; see ``merge``. A base with a new head ranks at random, and is left out.

    Args:
        training: how it was trained: it is measured as it was then.
    """
    from shortlist_adapt.training import reranker

    _saved(folder, reranker.KIND)
    new_head = reranker.has_new_head(folder)
    measure = reranker.reranker_measure(folder, training)
    return merge(folder, reranker.KIND, settings, measure, progress, with_base=not new_head)


def merge_cost(
    folder: RunFolder, kind: str, settings: MergeSettings, measure: Measure | None, *, with_base: bool = True
) -> Cost:
    """What merging will take, by the time that measuring the newest checkpoint took. Arguments and errors: see
    ``merge``."""
    saved = _saved(folder, kind)
    if measure is None:
        return Cost()
    new = [one for one in first_recipes(None, saved, settings) if one.kind != "checkpoint"]
    towards = [weight for weight in settings.weights if weight < 1]
    measured = len(new) + (1 + len(towards) if with_base else 0)
    return Cost(seconds=measure(saved[-1].folder).seconds * measured)


def merge(
    folder: RunFolder,
    kind: str,
    settings: MergeSettings,
    measure: Measure | None,
    progress: Progress,
    *,
    with_base: bool = True,
) -> Mapping[str, Any]:
    """Writes ``model/KIND`` and the part of ``sweep.json`` about it; returns that part.

    Killed and run again, it measures only what has no figure yet.

    Args:
        kind: "embedder" or "reranker".
        measure: the figure of a model folder; None without development queries.
        with_base: whether the base may be merged; not where its head was new.

    Raises:
        InvalidInput: there are no checkpoints, or they do not belong together.
    """
    trained, saved = folder.checkpoints / kind, _saved(folder, kind)
    step, target = f"merge-{kind}", folder.model / kind
    digest = _fingerprint(trained, saved, settings, measured=measure is not None, with_base=with_base)
    figures = folder.figures(step, digest)
    if figures is not None and target.is_dir():
        progress.say(f"the {kind} is merged already")
        return figures
    base = trained / checkpoints.BASE
    work = folder.cache / "merging" / kind

    def build(recipe: Recipe) -> Path:
        return recipe.folders[0] if recipe.kind in ("base", "checkpoint") else write_recipe(recipe, base, work)

    cost = merge_cost(folder, kind, settings, measure, with_base=with_base)
    progress.say(f"merge the {kind}: {cost.line()}")
    progress.begin(f"merging checkpoints of the {kind}")
    found = sweep(base if with_base else None, saved, settings, measure, build, progress)
    write_recipe(found.chosen, base, target, published=True)
    shutil.rmtree(work, ignore_errors=True)
    part = _part(kind, found)
    _note(folder, kind, part)
    folder.note_done(step, digest, part)
    return part


def write_recipe(recipe: Recipe, base: Path, target: Path, *, published: bool = False) -> Path:
    """Writes a candidate's folder, which is replaced if it exists; returns it.

    Args:
        base: the model as training found it.
        published: whether it gets the base's number format; a candidate to measure keeps that of training.

    Raises:
        InvalidInput: the models do not belong together.
    """
    from shortlist_adapt.merging.folders import merge_folders
    from shortlist_adapt.merging.slerp import average, slerp, slerp_all

    folders = list(recipe.folders)
    if recipe.base_weight < 1:
        folders = [base, *folders]

    def combine(tensors: Sequence[Tensor]) -> Tensor:
        if recipe.kind == "average":
            return average(tensors)
        if recipe.base_weight < 1:
            return slerp(tensors[0], slerp_all(tensors[1:]), recipe.base_weight)
        return slerp_all(tensors)

    merge_folders(folders, target, combine, like=base if published else None)
    return target


def _saved(folder: RunFolder, kind: str) -> list[Checkpoint]:
    trained = folder.checkpoints / kind
    if saved := checkpoints.saved(trained):
        return saved
    raise InvalidInput(f"{trained} has no checkpoints: train the {kind} first")


def _fingerprint(
    trained: Path, saved: Sequence[Checkpoint], settings: MergeSettings, *, measured: bool, with_base: bool
) -> str:
    values = {
        **to_json(settings),
        "measured": measured,
        "with_base": with_base,
        "checkpoints": [(one.name, one.development) for one in saved],
    }
    return fingerprint(values, [trained / checkpoints.BEGUN])


def _part(kind: str, found: Sweep) -> dict[str, Any]:
    queries = max((len(row.figure.queries) for row in found.rows if row.figure), default=0)
    return {
        "measure": MEASURES[kind],
        "queries": queries,
        "chosen": found.chosen.name,
        "rows": [
            {
                "name": row.recipe.name,
                "kind": row.recipe.kind,
                "figure": row.figure.value if row.figure else None,
                "detail": "; ".join(filter(None, (row.recipe.detail, row.figure.detail if row.figure else ""))),
            }
            for row in found.rows
        ],
    }


def _note(folder: RunFolder, kind: str, part: Mapping[str, Any]) -> None:
    """Replaces one kind's part of ``sweep.json``."""
    try:
        parts = json.loads(folder.sweep.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        parts = {}
    known = {name: parts[name] for name in MEASURES if isinstance(parts, dict) and name in parts}
    merged = known | {kind: part}
    write_json(folder.sweep, {name: merged[name] for name in MEASURES if name in merged})
