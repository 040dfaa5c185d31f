"""How much memory the activations of a training step take. Pure functions; any thread."""

from __future__ import annotations

from typing import Any

from shortlist_server.inference.embedder_layout import EmbedderLayout
from shortlist_server.inference.layout import read_config
from shortlist_server.inference.loading import default_chunking

_BYTES = {"float32": 4, "bfloat16": 2}


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
