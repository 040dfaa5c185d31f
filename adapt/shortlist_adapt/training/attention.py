"""Attention without dropout, which is what torch has fast kernels for. Importing this module loads torch."""

from __future__ import annotations

import torch


def stop_attention_dropout(model: torch.nn.Module) -> None:
    """Switches dropout off in the attention of a model, where training would drop weights of attended tokens.

    With it, torch has no fused kernel on a CPU (measured: all-MiniLM-L6-v2 then trains 1070 instead of 1500 tokens a
    second of one core). Dropout elsewhere stays.
    """
    for module in model.modules():
        if "Attention" in type(module).__name__ and isinstance(
            dropout := getattr(module, "dropout", None), torch.nn.Dropout
        ):
            dropout.p = 0.0
