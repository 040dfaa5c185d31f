"""What an embedder is trained on: device, number format, threads and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.training.settings import EmbedderTraining
from shortlist_server.errors import InvalidArgument
from shortlist_server.inference import torch_backend
from shortlist_server.inference.embedder_layout import EmbedderLayout
from shortlist_server.inference.layout import read_config
from shortlist_server.inference.loading import default_chunking

_BYTES = {"float32": 4, "bfloat16": 2}
_CPU_PART_TOKENS, _GPU_PART_TOKENS = 2048, 16_384
_CPU_GIGABYTES, _GPU_GIGABYTES = 6.0, 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a training runs on.

    Attributes:
        device: torch's name of it.
        precision: "float32" or "bfloat16".
        part_tokens: tokens that go through the model at once; more gain nothing.
        gigabytes: memory for a step's activations.
    """

    device: str
    precision: str
    part_tokens: int
    gigabytes: float


def choose_machine(settings: EmbedderTraining) -> Machine:
    """The machine for the settings. Raises ``InvalidInput`` where a device is unknown or missing."""
    try:
        device = torch_backend.choose_device(settings.device)
        precision = torch_backend.choose_dtype(settings.precision, device)
    except InvalidArgument as error:
        raise InvalidInput(f"embedder: {error}") from error
    part_tokens, gigabytes = (
        (_CPU_PART_TOKENS, _CPU_GIGABYTES) if device == "cpu" else (_GPU_PART_TOKENS, _GPU_GIGABYTES)
    )
    return Machine(
        device=device,
        precision=precision,
        part_tokens=part_tokens,
        gigabytes=settings.memory_gigabytes or gigabytes,
    )


@contextmanager
def threads_of(settings: EmbedderTraining) -> Iterator[None]:
    """Gives torch the threads of the settings, for the duration of a ``with`` block. Loads torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def activation_bytes(found: EmbedderLayout, precision: str) -> int:
    """Bytes that a token's activations take until the backward pass; an estimate on the safe side.

    Each layer keeps about twelve numbers for each one of the hidden state (queries, keys, values, attended values,
    inputs of its norms, dropout masks), three for each one of the inner layer, and the attention of each head twice.
    The estimate depends on the model's files alone, so that a training that goes on does as it did before.
    """
    config: dict[str, Any] = read_config(found.transformer)

    def size(otherwise: int, *names: str) -> int:
        return next((config[name] for name in names if isinstance(config.get(name), int)), otherwise)

    layers = size(12, "num_hidden_layers", "n_layers", "num_layers", "n_layer")
    heads = size(max(found.width // 64, 1), "num_attention_heads", "n_heads", "num_heads", "n_head")
    inner = size(4 * found.width, "intermediate_size", "hidden_dim", "d_ff", "n_inner")
    attended = 2 * heads * default_chunking(found).max_tokens
    return layers * (12 * found.width + 3 * inner + attended) * _BYTES[precision]
