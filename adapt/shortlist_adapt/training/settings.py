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
class EmbedderTraining:
    """How an embedder is trained.

    The optimizer is AdamW with a linear warm-up and decay. Its steps see ``batch_queries`` queries, each with its
    positive and up to ``negatives`` hard negatives; the texts of one query are negatives of the others.
    """

    enabled: bool = setting(True, "Train an embedder.")
    instruction: str = setting(
        "", "Instruction for embedders that take one, as in searches. Empty: the collection's, else the model's own."
    )
    epochs: int = setting(4, "How often training goes through all pairs.", least=1, most=1000)
    batch_queries: int = setting(32, "Queries in one step.", least=2, most=65_536)
    negatives: int = setting(
        2, "Most hard negatives of a query in one step; where there are more, each epoch draws anew.", least=0, most=100
    )
    learning_rate: float | None = setting(
        None, "Highest learning rate. None: 5e-5 for encoders, 1e-5 for decoders, 2e-4 for adapters.", least=0
    )
    warmup: float = setting(0.1, "Share of the steps in which the learning rate rises.", least=0, most=1)
    weight_decay: float = setting(0.01, "Weight decay of the optimizer.", least=0)
    temperature: float = setting(0.05, "What cosines are divided by in the loss.", least=0.001, most=10)
    margin: float = setting(
        0.1, "Texts that score above the positive by more than this count as answers nobody judged.", least=0, most=2
    )
    dimensions: tuple[int, ...] = setting(
        (),
        "Sizes that vectors may be cut to (Matryoshka), beside the full one and the collection's. Empty: halves of the"
        " full size, for models that were made to be cut; none for others.",
        least=8,
    )
    passage_tokens: int = setting(0, "Tokens of a passage. 0: as in the collection.", least=0)
    overlap_tokens: int = setting(0, "Tokens that passages share, where passage_tokens is set.", least=0)
    lora: LoraSettings = nested(LoraSettings)
    checkpoints_per_epoch: int = setting(1, "Checkpoints to save and measure in each epoch.", least=1, most=1000)
    patience: int = setting(2, "Checkpoints in a row that may bring nothing better. 0: train to the end.", least=0)
    development_documents: int = setting(
        600, "Documents that checkpoints are measured on; more where the development queries need them.", least=1
    )
    memory_gigabytes: float = setting(
        0, "Memory for a step's activations; larger steps take longer instead. 0: 6 on a CPU, 16 on a GPU.", least=0
    )
    save_memory: bool = setting(False, "Compute activations twice instead of keeping them (gradient checkpointing).")
    device: str = setting("auto", "Where to train: auto, cpu or cuda.")
    precision: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Number format of the forward passes; auto: bfloat16 on a GPU, float32 on a CPU."
    )
    threads: int = setting(0, "Threads on a CPU. 0: one for each core.", least=0)


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
    batch_queries: int = setting(8, "Queries in one step.", least=1)
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
