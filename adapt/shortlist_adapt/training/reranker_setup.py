"""What the training of a reranker works with: inputs, sizes of batches and steps, the device. Loads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.records import TrainingPair
from shortlist_adapt.training.reranker_batches import Groups
from shortlist_adapt.training.reranker_inputs import EncodesPairs, open_pairs
from shortlist_adapt.training.reranker_start import Family
from shortlist_adapt.training.settings import RerankerTraining
from shortlist_server.errors import InvalidArgument, ModelNotFound
from shortlist_server.inference import torch_backend

_LEARNING_RATES = {Family.ENCODER: 5e-5, Family.DECODER: 1e-5, Family.YES_NO: 1e-5}
_ADAPTER_LEARNING_RATE = 2e-4
_CPU_BATCH_TOKENS, _GPU_BATCH_TOKENS = 4096, 32_768
_CPU_PART_TOKENS = 1024
"""On a CPU, less padding gains more than larger matrix products."""
_SAMPLE = 200
"""Pairs whose tokens are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerSetup:
    """A training, ready to begin or to go on.

    Attributes:
        folder: the model that it starts from.
        device: torch's name of the device.
        groups: the pairs.
        group_tokens: tokens of a query with its passages, on average over a sample.
        batch_queries: queries that run through the model before a backward pass.
        part_tokens: most tokens that run through the model at once.
    """

    folder: Path
    family: Family
    settings: RerankerTraining
    seed: int
    device: str
    groups: Groups
    tokenizer: EncodesPairs
    group_tokens: float
    batch_queries: int
    part_tokens: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-len(self.groups) // self.settings.batch_queries)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.steps_per_epoch * self.settings.epochs

    @property
    def tokens(self) -> float:
        """Tokens of the whole training, estimated."""
        return self.group_tokens * len(self.groups) * self.settings.epochs

    @property
    def learning_rate(self) -> float:
        """The highest learning rate: the setting, else what suits the family."""
        if self.settings.learning_rate is not None:
            return self.settings.learning_rate
        return _ADAPTER_LEARNING_RATE if self.settings.lora.enabled else _LEARNING_RATES[self.family]


def set_up(
    folder: Path,
    family: Family,
    pairs: Sequence[TrainingPair],
    settings: RerankerTraining,
    *,
    seed: int,
    templates: bool = True,
) -> RerankerSetup:
    """Prepares a training of the model in ``folder``; encodes a sample of the pairs.

    Args:
        templates: see ``open_pairs``.

    Raises:
        InvalidInput: there is no such device, or the folder's tokenizer is not a reranker's.
    """
    try:
        device = torch_backend.choose_device(settings.device)
        tokenizer = open_pairs(
            folder,
            family,
            max_tokens=settings.max_tokens,
            instruction=settings.instruction,
            templates=templates,
        )
    except (InvalidArgument, ModelNotFound) as error:
        raise InvalidInput(str(error)) from error
    groups = Groups(pairs, settings.negatives, seed)
    sample = [groups[0, index] for index in range(0, len(groups), max(len(groups) // _SAMPLE, 1))]
    lengths = [sum(len(pair.ids) for pair in tokenizer.encode(one.query, one.passages)) for one in sample]
    group_tokens = sum(lengths) / len(lengths)
    room = settings.batch_tokens or (_CPU_BATCH_TOKENS if device == "cpu" else _GPU_BATCH_TOKENS)
    divisors = [size for size in range(1, settings.batch_queries + 1) if settings.batch_queries % size == 0]
    return RerankerSetup(
        folder=folder,
        family=family,
        settings=settings,
        seed=seed,
        device=device,
        groups=groups,
        tokenizer=tokenizer,
        group_tokens=group_tokens,
        batch_queries=max(size for size in divisors if size == 1 or size * group_tokens <= room),
        part_tokens=min(room, _CPU_PART_TOKENS) if device == "cpu" else room,
    )
