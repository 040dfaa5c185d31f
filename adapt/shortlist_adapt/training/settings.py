"""Settings of training. Plain values; any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shortlist_adapt.settings import nested, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters, trained in place of all weights."""

    enabled: bool = setting(False, "Train low-rank adapters (LoRA) instead of all weights.")
    rank: int = setting(16, "Rank of the adapters.", least=1, most=1024)
    alpha: float = setting(32.0, "Scale of the adapters; their product is multiplied by alpha / rank.", least=0)
    dropout: float = setting(0.05, "Share of inputs that adapters drop while training.", least=0, most=0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerTraining:
    """How a reranker is trained.

    The optimizer is AdamW with a linear warm-up and decay. Its steps see ``batch_queries`` queries, each with its
    positive and up to ``negatives`` others.
    """

    enabled: bool = setting(True, "Train a reranker.")
    instruction: str = setting("", "Instruction for rerankers that take one, as in searches. Empty: the model's own.")
    epochs: int = setting(4, "How often training goes through all pairs.", least=1, most=1000)
    negatives: int = setting(
        4, "Most negatives of a query in one step; where there are more, each epoch draws anew.", least=1
    )
    batch_queries: int = setting(16, "Queries in one step.", least=1)
    learning_rate: float | None = setting(
        None, "Highest learning rate. None: 5e-5 for encoders, 1e-5 for decoders, 2e-4 for adapters.", least=0
    )
    warmup: float = setting(0.1, "Share of the steps in which the learning rate rises.", least=0, most=1)
    weight_decay: float = setting(0.01, "Weight decay of the optimizer.", least=0)
    loss: Literal["auto", "listwise", "yes-no"] = setting(
        "auto",
        "Loss: listwise (cross-entropy over a query's texts), yes-no (likelihood of the right answer for each text), or"
        " auto: yes-no for rerankers that answer yes or no, else listwise.",
    )
    calibration: float = setting(
        0.1,
        "Weight of the yes-no loss beside the listwise one, which alone would leave probabilities undefined.",
        least=0,
    )
    max_tokens: int = setting(0, "Longest query and passage together, in tokens. 0: the model's window.", least=0)
    lora: LoraSettings = nested(LoraSettings)
    checkpoints_per_epoch: int = setting(1, "Checkpoints to save and measure in each epoch.", least=1)
    patience: int = setting(2, "Checkpoints in a row that may bring nothing better. 0: train to the end.", least=0)
    batch_tokens: int = setting(
        0, "Most tokens that run through the model at once. 0: 4096 on a CPU, 32768 on a GPU.", least=0
    )
    save_memory: bool = setting(False, "Compute activations twice instead of keeping them (gradient checkpointing).")
    device: str = setting("auto", "Where to train: auto, cpu or cuda.")
    threads: int = setting(0, "Threads on a CPU. 0: one for each core.", least=0)
