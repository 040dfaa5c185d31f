"""The step that trains the embedder on the pairs of a run.

Killed at any moment and run again, it goes on from its newest checkpoint, and the checkpoints are those of an
undisturbed training. On a GPU they may differ in the last digits, because some kernels add in no fixed order.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shortlist_adapt.costs import Cost
from shortlist_adapt.development.dense import dense_figure, read_development
from shortlist_adapt.development.figures import Figure
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.progress import Progress, Silent
from shortlist_adapt.records import Split, TrainingPair, read_lines
from shortlist_adapt.settings import to_json
from shortlist_adapt.training import checkpoints
from shortlist_adapt.training.batches import schedule, steps_per_epoch
from shortlist_adapt.training.cost import count_parameters, estimate, measured_speed
from shortlist_adapt.training.embedder_inputs import read_rows
from shortlist_adapt.training.machine import Machine, activation_bytes, choose_machine, threads_of
from shortlist_adapt.training.served_texts import ServedTexts, read_base
from shortlist_adapt.training.serving import read_serving, trained_sizes
from shortlist_adapt.training.settings import EmbedderTraining
from shortlist_server.inference import layout
from shortlist_server.inference.embedder_layout import EmbedderLayout

STEP = "train-embedder"
KIND = "embedder"

_NOT_IN_THE_RESULT = ("enabled", "device", "threads")
"""Settings that do not change what is trained, but for the last digits."""
_CARD = "README.md"
_FORWARD_SHARE = 1 / 3
"""A forward pass, as a share of a step of training."""
_QUERY_TOKENS = 24
_TOKEN_CHARACTERS = 4
_PASSAGES = 3
"""Passages of a document of usual length."""


def embedder_cost(folder: RunFolder, base: Path, settings: EmbedderTraining) -> Cost:
    """What the step costs. Arguments and errors: see ``train_embedder``."""
    found = read_base(base)
    longest = ServedTexts(found, read_serving(folder, settings)).chunking.max_tokens

    def tokens_of(text: str) -> int:
        return min(len(text) // _TOKEN_CHARACTERS, longest)

    tokens = 0.0
    for pair in read_lines(folder.pairs, TrainingPair):
        if pair.split is Split.TRAIN:
            drawn = min(settings.negatives / max(len(pair.negatives), 1), 1.0)
            tokens += _QUERY_TOKENS + tokens_of(pair.positive) + drawn * sum(map(tokens_of, pair.negatives))
    saved = settings.epochs * settings.checkpoints_per_epoch
    measured = (saved + 1) * settings.development_documents * _PASSAGES * longest
    return estimate(
        tokens=settings.epochs * tokens + _FORWARD_SHARE * measured,
        parameters=count_parameters(found.transformer),
        checkpoints=saved + 1,
        speed=measured_speed(settings.threads, choose_machine(settings).device),
    )


def train_embedder(
    folder: RunFolder, base: Path, settings: EmbedderTraining, *, seed: int, progress: Progress
) -> Mapping[str, Any]:
    """Writes ``checkpoints/embedder``: the base, and a checkpoint after each part of the training.

    Args:
        base: the folder of the model to train.

    Returns:
        Figures for the report: rows, queries, passages, steps, the best checkpoint, and the development figures of it
        and of the base (None without development queries).

    Raises:
        InvalidInput: the base cannot be trained, a setting does not suit it, or there is nothing to train on.
        AdaptError: the loss is no longer a number.
    """
    found = read_base(base)
    if any(size > found.dimension for size in settings.dimensions):
        raise InvalidInput(f"embedder.dimensions: the vectors of {found.folder} have {found.dimension} dimensions")
    revision = layout.revision(found.folder, (found.prompts.query, found.prompts.passage), found.parts)
    values = {name: value for name, value in to_json(settings).items() if name not in _NOT_IN_THE_RESULT}
    values |= {"seed": seed, "base": revision, "serving": asdict(read_serving(folder, settings))}
    wanted = fingerprint(values, [folder.pairs, folder.queries, folder.corpus])
    target = folder.checkpoints / KIND
    figures = folder.figures(STEP, wanted)
    if figures is not None and checkpoints.saved(target):
        progress.say("the embedder is trained already")
        return figures
    machine = choose_machine(settings)
    checkpoints.begin(target, wanted)
    with threads_of(settings):
        figures = _train(folder, target, found, settings, machine, progress, seed)
    folder.note_done(STEP, wanted, figures)
    return figures


def _train(
    folder: RunFolder,
    target: Path,
    found: EmbedderLayout,
    settings: EmbedderTraining,
    machine: Machine,
    progress: Progress,
    seed: int,
) -> Mapping[str, Any]:
    from shortlist_adapt.training.adapters import with_adapters
    from shortlist_adapt.training.callbacks import KeepsCheckpoints, ReportsProgress, resume_from, same_random_numbers
    from shortlist_adapt.training.contrastive import Collator, ContrastiveLoss
    from shortlist_adapt.training.embedder_folder import open_model, save_memory, transformer_of, write_model
    from shortlist_adapt.training.embedder_trainer import EmbedderTrainer, SavesAt, training_arguments

    serving = read_serving(folder, settings)
    texts = ServedTexts(found, serving)
    model = open_model(found, machine.device)

    def write_base(path: Path) -> None:
        write_model(model, found, texts, path)
        if (found.folder / _CARD).is_file():  # the report names the base and its licence by its card
            shutil.copyfile(found.folder / _CARD, path / _CARD)

    written = checkpoints.write_base(target, write_base)
    table = read_rows(folder, texts, model, machine.part_tokens, progress)
    steps = steps_per_epoch(len(table.rows), settings.batch_queries)
    batches = schedule(
        [len(row.negatives) for row in table.rows],
        size=settings.batch_queries,
        negatives=settings.negatives,
        epochs=settings.epochs,
        seed=seed,
    )
    figure = embedder_measure(folder, settings, seed=seed)
    measure = figure and _value_of(figure)
    base_figure = None
    if measure is None:
        progress.say("no development queries: training runs to its end, and the last checkpoint counts as the best")
    else:
        progress.begin("measuring the base")
        with same_random_numbers():
            base_figure = measure(written)
        progress.say(f"the base: development figure {base_figure:.4f}")
    if settings.save_memory:
        save_memory(model)
    if settings.lora.enabled:
        transformer = transformer_of(model)
        transformer.model = with_adapters(transformer.model, settings.lora, seed=seed)
    keeper = KeepsCheckpoints(target, measure, settings.patience, progress)
    keeper.measure_all()
    last = resume_from(target)
    if last is None or (last.step < len(batches) and not keeper.is_over()):
        loss = ContrastiveLoss(
            model,
            table,
            batches,
            temperature=settings.temperature,
            margin=settings.margin,
            dimensions=trained_sizes(found, serving, settings),
            part_tokens=machine.part_tokens,
            kept_tokens=int(machine.gigabytes * 1e9 / activation_bytes(found, machine.precision)),
        )
        trainer = EmbedderTrainer(
            model,
            training_arguments(target, settings, machine, decoder=found.decoder, steps=len(batches), seed=seed),
            loss=loss,
            collate=Collator(table, batches),
            batches=len(batches),
            steps=steps,
            write=lambda path: write_model(model, found, texts, path),
            adapted=settings.lora.enabled,
            callbacks=[
                SavesAt(_saved_steps(steps, settings)),
                keeper,
                ReportsProgress(progress, "training the embedder"),
            ],
        )
        trainer.train(resume_from_checkpoint=None if last is None else str(last.folder))
    saved = checkpoints.saved(target)
    best = checkpoints.best(saved) or saved[-1]
    return {
        "rows": len(table.rows),
        "queries": len(table.queries),
        "passages": len(table.passages),
        "steps": saved[-1].step,
        "best": best.name,
        "development": best.development,
        "base_development": base_figure,
    }


def embedder_measure(folder: RunFolder, settings: EmbedderTraining, *, seed: int) -> Callable[[Path], Figure] | None:
    """What measures an embedder's folder on the development split, for training and merging alike; None if the split
    is empty. Its queries take the prompt that the folder states."""
    development = read_development(folder, seed=seed, sample=settings.development_documents)
    if not development.queries:
        return None
    serving = read_serving(folder, settings)

    def measure(model: Path) -> Figure:
        return dense_figure(
            folder,
            model,
            development,
            Silent(),
            chunking=serving.chunking,
            dimension=serving.dimension,
            device=settings.device,
            threads=settings.threads,
        )

    return measure


def _value_of(figure: Callable[[Path], Figure]) -> Callable[[Path], float]:
    return lambda model: figure(model).value


def _saved_steps(steps: int, settings: EmbedderTraining) -> list[int]:
    """After which steps a checkpoint is saved: parts of each epoch, its end always included."""
    parts = min(settings.checkpoints_per_epoch, steps)
    return [
        epoch * steps + round(part * steps / parts) for epoch in range(settings.epochs) for part in range(1, parts + 1)
    ]
