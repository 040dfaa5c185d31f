"""What happens beside the steps of a training: progress, complete checkpoints, figures, early stopping.

For any trainer derived from that of transformers. Importing this module loads transformers. Called from the thread that
trains.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from shortlist_adapt.progress import Progress
from shortlist_adapt.training import checkpoints
from shortlist_adapt.training.checkpoints import Checkpoint

Measure = Callable[[Path], float]
"""The figure of a model folder on the development split; higher is better."""


class ReportsProgress(TrainerCallback):
    """Shows the steps of a training, with the latest loss."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._what = what
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See ``TrainerCallback``."""
        self._progress.begin(self._what, state.max_steps, "steps")
        self._progress.advance(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """See ``TrainerCallback``."""
        if logs and "loss" in logs:
            self._loss = f"loss {logs['loss']:.4f}"

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See ``TrainerCallback``."""
        self._progress.advance(1, self._loss)


class KeepsCheckpoints(TrainerCallback):
    """Completes each checkpoint: marks it, measures it, and ends a training that no longer gets better.

    Args:
        folder: the trainer's output folder, ``checkpoints/KIND``.
        measure: the figure that decides; None for a training without a development split.
        patience: how many checkpoints in a row may bring nothing better; 0 to train to the end.
    """

    def __init__(self, folder: Path, measure: Measure | None, patience: int, progress: Progress) -> None:
        self._folder = folder
        self._measure = measure
        self._patience = patience
        self._progress = progress

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See ``TrainerCallback``."""
        folder = self._folder / f"checkpoint-{state.global_step}"
        checkpoints.mark_saved(folder, step=state.global_step, epoch=state.epoch)
        self.measure_all()
        control.should_training_stop |= self.is_over()

    def measure_all(self) -> None:
        """Measures the checkpoints that have no figure yet, the newest or one whose measurement was killed, and writes
        the history."""
        for checkpoint in checkpoints.saved(self._folder):
            if checkpoint.development is None and self._measure is not None:
                with same_random_numbers():
                    figure = self._measure(checkpoint.folder)
                checkpoints.note_development(checkpoint, figure)
                self._progress.say(f"epoch {checkpoint.epoch:.2f}: development figure {figure:.4f}")
        if newest := resume_from(self._folder):
            checkpoints.write_history(self._folder, checkpoints.logged(newest))

    def is_over(self) -> bool:
        """Whether training ends early."""
        return checkpoints.should_stop([one.development for one in checkpoints.saved(self._folder)], self._patience)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Gives the random generators and torch's threads back as they were, so that measuring changes no training."""
    python, arrays, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_num_threads(threads)


def resume_from(folder: Path) -> Checkpoint | None:
    """The checkpoint that a training goes on from; None where it begins."""
    return next(reversed(checkpoints.saved(folder)), None)
