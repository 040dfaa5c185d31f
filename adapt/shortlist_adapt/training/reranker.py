"""The step that trains a reranker on the pairs of a run.

Three families are trained, each with the inputs and the score that the server gives it: cross-encoders, classifiers
over decoders, and Qwen3-Reranker. An embedder becomes a cross-encoder with a new head.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from shortlist_adapt.training.reranker_batches import Collate, Groups, LengthBatches
from shortlist_adapt.training.reranker_inputs import EncodesPairs, YesNoPairs, open_pairs
from shortlist_adapt.training.reranker_start import Family, RerankerStart, read_start, write_start
from shortlist_adapt.training.settings import RerankerTraining
from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference import layout, torch_backend

if TYPE_CHECKING:
    from shortlist_adapt.training.callbacks import Measure
    from shortlist_adapt.training.reranker_trainer import RerankerTrainer

STEP = "train-reranker"
KIND = "reranker"

_LEARNING_RATES = {Family.ENCODER: 5e-5, Family.DECODER: 1e-5, Family.YES_NO: 1e-5}
_ADAPTER_LEARNING_RATE = 2e-4
_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 4096, 32_768
_CPU_PART_TOKENS = 1024
"""On a CPU, less padding gains more than larger matrix products."""
_SAMPLE = 200
"""Pairs whose tokens are counted for an estimate."""
_NOT_IN_THE_RESULT = ("enabled", "device", "threads")
"""Settings that do not change what is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """How a training is divided.

    Attributes:
        group_tokens: tokens of a query with its passages, on average.
        batch: queries that run through the model at once.
        accumulated: batches in a step.
        steps_per_epoch: optimizer steps.
    """

    group_tokens: float
    batch: int
    accumulated: int
    steps_per_epoch: int


def reranker_cost(folder: RunFolder, base: Path, settings: RerankerTraining) -> Cost:
    """What training will take on this machine; counts the tokens of a sample. Raises as ``train_reranker``."""
    start = read_start(base)
    pairs = _training_pairs(folder)
    groups = Groups(pairs, settings.negatives, seed=0)
    device = _device(settings)
    sizes = _sizes(groups, _open_pairs(start.folder, start.family, settings), settings, device)
    return estimate(
        tokens=sizes.group_tokens * len(pairs) * settings.epochs,
        parameters=count_parameters(start.folder),
        checkpoints=settings.epochs * settings.checkpoints_per_epoch,
        speed=measured_speed(settings.threads, device),
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
    if (figures := folder.figures(STEP, digest)) is not None:
        progress.say("the reranker is trained already")
        return figures
    target = folder.checkpoints / KIND
    checkpoints.begin(target, digest)
    trained_from = checkpoints.write_base(target, lambda path: write_start(start, path, seed=seed))

    figure = reranker_measure(folder, settings)
    measure = None if figure is None else lambda model: figure(model).value
    steps = _train(target, trained_from, start.family, pairs, settings, seed, measure, progress)
    saved = checkpoints.saved(target)
    best = checkpoints.best(saved)
    figures = {
        "base": str(base),
        "family": start.family.value,
        "new_head": start.new_head,
        "pairs": len(pairs),
        "development_queries": len(shortlists),
        "steps": steps,
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


def _open_pairs(folder: Path, family: Family, settings: RerankerTraining) -> EncodesPairs:
    try:
        return open_pairs(folder, family, max_tokens=settings.max_tokens, instruction=settings.instruction)
    except ModelNotFound as error:
        raise InvalidInput(str(error)) from error


def _device(settings: RerankerTraining) -> str:
    try:
        return torch_backend.choose_device(settings.device)
    except InvalidArgument as error:
        raise InvalidInput(str(error)) from error


def _sizes(groups: Groups, tokenizer: EncodesPairs, settings: RerankerTraining, device: str) -> _Sizes:
    sample = range(0, len(groups), max(len(groups) // _SAMPLE, 1))
    encoded = [tokenizer.encode(group.query, group.passages) for group in (groups[0, index] for index in sample)]
    group_tokens = sum(len(pair.ids) for group in encoded for pair in group) / len(encoded)
    room = settings.batch_tokens or (_CPU_BATCH_TOKENS if device == "cpu" else _GPU_BATCH_TOKENS)
    fitting = [
        size
        for size in range(1, settings.batch_queries + 1)
        if settings.batch_queries % size == 0 and size * group_tokens <= room
    ]
    batch = max(fitting, default=1)
    return _Sizes(
        group_tokens=group_tokens,
        batch=batch,
        accumulated=settings.batch_queries // batch,
        steps_per_epoch=-(-len(groups) // settings.batch_queries),
    )


def _train(
    target: Path,
    base: Path,
    family: Family,
    pairs: Sequence[TrainingPair],
    settings: RerankerTraining,
    seed: int,
    measure: Measure | None,
    progress: Progress,
) -> int:
    """Trains to the end, or until the figures stop rising; returns the number of steps in the newest checkpoint."""
    import torch

    from shortlist_adapt.training.callbacks import KeepsCheckpoints, ReportsProgress, resume_from

    device = _device(settings)
    threads = torch.get_num_threads()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        groups = Groups(pairs, settings.negatives, seed)
        tokenizer = _open_pairs(base, family, settings)
        sizes = _sizes(groups, tokenizer, settings, device)
        keeps = KeepsCheckpoints(target, measure, settings.patience, progress)
        keeps.measure_all()
        last = resume_from(target)
        total = sizes.steps_per_epoch * settings.epochs
        if last is None or (last.step < total and not keeps.is_over()):
            callbacks = [ReportsProgress(progress, "training the reranker"), keeps]
            trainer = _trainer(target, base, family, groups, tokenizer, sizes, settings, seed, device, callbacks)
            trainer.train(resume_from_checkpoint=str(last.folder) if last else None)
        return checkpoints.saved(target)[-1].step
    finally:
        torch.set_num_threads(threads)


def _trainer(
    target: Path,
    base: Path,
    family: Family,
    groups: Groups,
    tokenizer: EncodesPairs,
    sizes: _Sizes,
    settings: RerankerTraining,
    seed: int,
    device: str,
    callbacks: Sequence[Any],
) -> RerankerTrainer:
    import torch
    import transformers

    from shortlist_adapt.training.adapters import with_adapters
    from shortlist_adapt.training.reranker_scorer import Scorer
    from shortlist_adapt.training.reranker_trainer import RerankerLoss, RerankerTrainer

    yes_no = family is Family.YES_NO
    auto_class = torch_backend.DECODER if yes_no else torch_backend.CLASSIFIER
    model = torch_backend.load_checkpoint(auto_class, base, device="cpu", dtype="float32")
    pad_id = model.config.get_text_config().pad_token_id if family is Family.DECODER else None
    adapted = None
    if settings.lora.enabled:
        heads = [name for name in ("classifier", "score") if hasattr(model, name)]
        adapted = with_adapters(model, settings.lora, seed=seed, trained=heads)
    if settings.save_memory:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    answers = (tokenizer.yes, tokenizer.no) if isinstance(tokenizer, YesNoPairs) else None
    rate = settings.learning_rate
    if rate is None:
        rate = _ADAPTER_LEARNING_RATE if settings.lora.enabled else _LEARNING_RATES[family]
    total = sizes.steps_per_epoch * settings.epochs
    arguments = transformers.TrainingArguments(
        output_dir=str(target),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=sizes.batch,
        gradient_accumulation_steps=sizes.accumulated,
        learning_rate=rate,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * total),
        lr_scheduler_type="linear",
        logging_steps=min(max(total // 100, 1), 10),
        save_strategy="steps",
        save_steps=max(sizes.steps_per_epoch // settings.checkpoints_per_epoch, 1),
        seed=seed,
        use_cpu=device == "cpu",
        bf16=device.startswith("cuda") and torch_backend.has_bfloat16(device),
        disable_tqdm=True,
        report_to="none",
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # several GPUs would split a batch whose parts belong together
    listwise = settings.loss == "listwise" or (settings.loss == "auto" and not yes_no)
    part_tokens = _CPU_PART_TOKENS if device == "cpu" else settings.batch_tokens or _GPU_BATCH_TOKENS
    torch.manual_seed(seed)
    return RerankerTrainer(
        Scorer(model, family, answers),
        arguments,
        adapted=adapted,
        base=base,
        groups=groups,
        batches=LengthBatches(groups, size=sizes.batch, step_size=settings.batch_queries, seed=seed),
        collate=Collate(tokenizer, pad_id=pad_id, batch_tokens=part_tokens),
        loss=RerankerLoss(listwise=1.0 if listwise else 0.0, yes_no=settings.calibration if listwise else 1.0),
        callbacks=callbacks,
    )
