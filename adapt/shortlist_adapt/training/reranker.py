"""The step that trains a reranker on the pairs of a run.

Three families are trained, each with the inputs and the score that the server gives it: cross-encoders, classifiers
over decoders, and Qwen3-Reranker. An embedder becomes a cross-encoder with a new head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortlist_adapt.costs import Cost
from shortlist_adapt.development.figures import Figure
from shortlist_adapt.development.final import final_figure, read_shortlists
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.progress import Progress, Silent
from shortlist_adapt.records import Split, TrainingPair, read_lines
from shortlist_adapt.settings import to_json
from shortlist_adapt.training import checkpoints
from shortlist_adapt.training.cost import count_parameters, estimate, measured_speed
from shortlist_adapt.training.reranker_setup import RerankerSetup, set_up
from shortlist_adapt.training.reranker_start import RerankerStart, read_start, write_start
from shortlist_adapt.training.settings import RerankerTraining
from shortlist_server.inference import layout

if TYPE_CHECKING:
    from shortlist_adapt.training.callbacks import Measure

STEP = "train-reranker"
KIND = "reranker"

_NOT_IN_THE_RESULT = ("enabled", "device", "threads")
"""Settings that do not change what is trained."""


def reranker_cost(folder: RunFolder, base: Path, settings: RerankerTraining) -> Cost:
    """What training will take on this machine; counts the tokens of a sample. Raises as ``train_reranker``."""
    start = read_start(base)
    pairs = _training_pairs(folder)
    setup = set_up(start.folder, start.family, pairs, settings, seed=0, templates=not start.new_head)
    return estimate(
        tokens=setup.tokens,
        parameters=count_parameters(start.folder),
        checkpoints=settings.epochs * settings.checkpoints_per_epoch,
        speed=measured_speed(settings.threads, setup.device),
    )


def train_reranker(
    folder: RunFolder, base: Path, settings: RerankerTraining, *, seed: int, progress: Progress
) -> Mapping[str, Any]:
    """Trains a reranker; returns figures for the report. Killed and run again, it goes on from the newest checkpoint.

    Args:
        base: the folder of the reranker, or of the embedder, to start from.

    Raises:
        InvalidInput: there are no pairs to train on, or the base is not a model that can be trained.
    """
    start = read_start(base)
    pairs = _training_pairs(folder)
    shortlists = read_shortlists(folder)
    digest = _fingerprint(folder, start, settings, seed)
    target = folder.checkpoints / KIND
    if (figures := folder.figures(STEP, digest)) is not None and checkpoints.saved(target):
        progress.say("the reranker is trained already")
        return figures
    if checkpoints.begin(target, digest):
        progress.say("pairs, base or settings have changed: training begins anew")
    written = checkpoints.write_base(target, lambda path: write_start(start, path, seed=seed))
    setup = set_up(written, start.family, pairs, settings, seed=seed)
    figure = reranker_measure(folder, settings)
    _train(setup, target, None if figure is None else lambda model: figure(model).value, progress)
    saved = checkpoints.saved(target)
    best = checkpoints.best(saved)
    figures = {
        "base": str(base),
        "family": start.family.value,
        "new_head": start.new_head,
        "pairs": len(pairs),
        "development_queries": len(shortlists),
        "steps": saved[-1].step,
        "checkpoints": [
            {"name": one.name, "step": one.step, "epoch": one.epoch, "development": one.development} for one in saved
        ],
        "best": best.name if best else saved[-1].name,
    }
    folder.note_done(STEP, digest, figures)
    return figures


def has_new_head(folder: RunFolder) -> bool:
    """Whether the reranker of a run began with a new head. Raises ``InvalidInput`` if no training is finished."""
    try:
        state = json.loads(folder.state(STEP).read_text(encoding="utf-8"))
        return bool(state["figures"]["new_head"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{folder.root} has no trained reranker: train it to the end first") from error


def reranker_measure(folder: RunFolder, settings: RerankerTraining) -> Callable[[Path], Figure] | None:
    """What measures a reranker's folder on the development split, for training and merging alike; None if the split
    is empty."""
    shortlists = read_shortlists(folder)
    if not shortlists:
        return None

    def measure(model: Path) -> Figure:
        return final_figure(
            folder,
            model,
            shortlists,
            Silent(),
            instruction=settings.instruction,
            device=settings.device,
            threads=settings.threads,
        )

    return measure


def _training_pairs(folder: RunFolder) -> list[TrainingPair]:
    pairs = [pair for pair in read_lines(folder.pairs, TrainingPair) if pair.split is Split.TRAIN and pair.negatives]
    if not pairs:
        raise InvalidInput(f"{folder.pairs.name} has no pairs with negatives in the training split: mine first")
    return pairs


def _fingerprint(folder: RunFolder, start: RerankerStart, settings: RerankerTraining, seed: int) -> str:
    values = {name: value for name, value in to_json(settings).items() if name not in _NOT_IN_THE_RESULT}
    values |= {"seed": seed, "base": layout.revision(start.folder, ()), "start": start.family}
    return fingerprint(values, [folder.pairs, *([folder.shortlists] if folder.shortlists.is_file() else [])])


def _train(setup: RerankerSetup, target: Path, measure: Measure | None, progress: Progress) -> None:
    """Trains to the end, or until the figures stop rising."""
    import torch

    from shortlist_adapt.training.callbacks import KeepsCheckpoints, ReportsProgress, resume_from
    from shortlist_adapt.training.reranker_trainer import open_trainer

    threads = torch.get_num_threads()
    torch.set_num_threads(setup.settings.threads or threads)
    try:
        keeps = KeepsCheckpoints(target, measure, setup.settings.patience, progress)
        keeps.measure_all()
        last = resume_from(target)
        if last is None or (last.step < setup.steps and not keeps.is_over()):
            trainer = open_trainer(setup, target, [ReportsProgress(progress, "training the reranker"), keeps])
            trainer.train(resume_from_checkpoint=str(last.folder) if last else None)
    finally:
        torch.set_num_threads(threads)
