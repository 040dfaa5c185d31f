"""Low-rank adapters (LoRA): small matrices that are trained in place of a model's own weights.

Checkpoints hold the adapters merged into the weights, so they are plain model folders. Importing this module loads
torch. Method: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), by the library peft.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from shortlist_adapt.training.settings import LoraSettings


def with_adapters(model: Any, settings: LoraSettings, *, seed: int, trained: Sequence[str] = ()) -> Any:
    """The model with adapters in all linear layers but the last, which alone are trained; a ``PeftModel``.

    The model itself is changed, and remains usable: ``get_base_model`` of the result returns it.

    Args:
        trained: names of modules to train as a whole, such as a new head.
    """
    import peft

    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        exclude_modules=list(trained) or None,
        modules_to_save=list(trained) or None,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers 5 for a property by its former name.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def save_merged(adapted: Any, folder: Path) -> None:
    """Writes the model with its adapters merged into the weights. Needs memory for a second copy of the model."""
    copy.deepcopy(adapted).merge_and_unload().save_pretrained(folder)


def trained_weights(module: Any) -> dict[str, Any]:
    """The weights that are trained, by name, as they are: what a training with adapters goes on from."""
    return {
        name: parameter.detach().contiguous()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
