"""How long a training will take, said before it begins. Loads no weights; measuring the speed loads torch."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from shortlist_adapt.costs import Cost
from shortlist_server.inference.tensors import read_shapes

_PASSES = 3
"""A step costs three forward passes: one, and a backward pass as long as two."""
_SHARE = 0.45
"""The share of a matrix product's speed that training reaches; measured with all-MiniLM-L6-v2 on a busy CPU."""
_STATE_BYTES = 12
"""Bytes of a trained parameter in the newest checkpoint: itself and the two moments of AdamW."""
_WEIGHT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How many parameters a model has.

    Attributes:
        total: all of them.
        in_layers: those that multiply every token; those of the embedding tables do not.
    """

    total: int
    in_layers: int


def count_parameters(folder: Path) -> Parameters:
    """Counts the parameters of a model folder from the headers of its files. Raises ``ModelNotFound``."""
    sizes = {name: math.prod(shape) for name, shape in read_shapes(folder).items()}
    tables = sum(size for name, size in sizes.items() if "embed" in name)
    total = sum(sizes.values())
    return Parameters(total=total, in_layers=total - tables)


def estimate(*, tokens: float, parameters: Parameters, checkpoints: int, speed: float) -> Cost:
    """The cost of training all parameters.

    Args:
        tokens: tokens of all texts of all epochs.
        checkpoints: how many will be saved.
        speed: as ``measured_speed`` gives it.
    """
    operations = 2.0 * _PASSES * tokens * parameters.in_layers
    disk = parameters.total * (_STATE_BYTES + _WEIGHT_BYTES * checkpoints)
    return Cost(seconds=operations / (_SHARE * speed), disk_bytes=disk)


def measured_speed(threads: int = 0, device: str = "cpu") -> float:
    """Floating-point operations a second of a matrix product here. Takes about a tenth of a second.

    Args:
        threads: threads on a CPU; 0 for torch's own choice.
    """
    import torch

    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        size = 1024 if device == "cpu" else 4096
        matrix = torch.ones((size, size), device=device)
        best = 0.0
        for _ in range(4):
            started = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # reading a value waits for the GPU
            best = max(best, 2.0 * size**3 / (time.perf_counter() - started))
        return best
    finally:
        torch.set_num_threads(before)
