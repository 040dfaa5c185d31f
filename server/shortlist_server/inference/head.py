"""What a sentence-transformers model does with a pooled vector: Dense layers, normalisation, truncation.

These are a few small matrix products, which numpy computes on every backend. Immutable after construction; any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.layout import read_json
from shortlist_server.inference.products import products
from shortlist_server.inference.tensors import read_tensors

Floats = NDArray[np.float32]


class Step(Protocol):
    """Maps vectors of shape (texts, width) to vectors of shape (texts, another width)."""

    def apply(self, rows: Floats) -> Floats:
        """The vectors after this step."""


@dataclass(frozen=True, slots=True)
class Normalize:
    """Scales vectors to L2 norm 1."""

    def apply(self, rows: Floats) -> Floats:
        """See ``Step.apply``."""
        return normalize(rows)


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cuts vectors to their first components (``truncate_dim`` in a model's settings)."""

    dimension: int

    def apply(self, rows: Floats) -> Floats:
        """See ``Step.apply``."""
        return rows[:, : self.dimension]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dense:
    """A linear layer with an activation.

    Attributes:
        weight: shape (out, in).
        bias: shape (out,), or None.
        activation: applied to each component.
        residual: matrix of shape (out, in) whose product with the input is added to the result; None for no residual.
    """

    weight: Floats
    bias: Floats | None
    activation: Callable[[Floats], Floats]
    residual: Floats | None = None

    @property
    def dimension(self) -> int:
        """Size of the vectors after this layer."""
        return len(self.weight)

    def apply(self, rows: Floats) -> Floats:
        """See ``Step.apply``."""
        result = products(rows, self.weight)
        if self.bias is not None:
            result += self.bias
        result = np.asarray(self.activation(result), dtype=np.float32)
        return result if self.residual is None else result + products(rows, self.residual)


def normalize(rows: Floats) -> Floats:
    """Rows scaled to L2 norm 1. Shape (n, width)."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), dtype=np.float32)


def read_dense(folder: Path, width: int) -> Dense:
    """The Dense module in a folder, for vectors of that width.

    Raises:
        ModelNotFound: its files are missing or damaged, contradict each other, or ask for something unknown here.
    """
    path = folder / "config.json"
    config = read_json(path)
    if (source := config.get("module_input_name", "sentence_embedding")) != "sentence_embedding":
        raise ModelNotFound(
            f"{path} works on {source}, as in a model of many vectors per text (ColBERT): serve a model of one vector"
            " per text"
        )
    if config.get("module_output_name") not in (None, "sentence_embedding"):
        raise ModelNotFound(f"{path} names an output of its own ({config['module_output_name']}), which nothing reads")
    asked = str(config.get("activation_function", "torch.nn.Tanh"))
    activation = _ACTIVATIONS.get(asked.rpartition(".")[2]) if asked.startswith("torch.") else None
    if activation is None:
        raise ModelNotFound(
            f"{path} asks for the activation {asked}: only torch's {', '.join(_ACTIVATIONS)} are served"
        )
    tensors = read_tensors(folder)
    weight = _matrix(folder, tensors, "linear.weight", width)
    residual = None
    if config.get("use_residual"):
        same = len(weight) == width
        residual = np.eye(width, dtype=np.float32) if same else _matrix(folder, tensors, "residual.weight", width)
    bias = tensors.get("linear.bias")
    if bool(config.get("bias", True)) != (bias is not None) or (bias is not None and bias.shape != (len(weight),)):
        raise ModelNotFound(f"{folder / 'model.safetensors'} has another bias than {path} states: copy the model anew")
    return Dense(weight=weight, bias=bias, activation=activation, residual=residual)


def _matrix(folder: Path, tensors: dict[str, NDArray[Any]], name: str, width: int) -> Floats:
    found = tensors.get(name)
    if found is None or found.ndim != 2 or found.shape[1] != width:
        problem = "lacks it" if found is None else f"has one of shape {list(found.shape)}"
        raise ModelNotFound(
            f"{folder} needs a matrix {name!r} for vectors of {width} dimensions, and its model.safetensors {problem}:"
            " copy the model anew"
        )
    return np.asarray(found, dtype=np.float32)


def _gelu(values: Floats) -> Floats:
    return np.asarray(values * 0.5 * (1.0 + np.vectorize(math.erf)(values / math.sqrt(2.0))), dtype=np.float32)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float32)


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "Identity": lambda values: values,
    "Tanh": lambda values: np.asarray(np.tanh(values), dtype=np.float32),
    "ReLU": lambda values: np.maximum(values, np.float32(0)),
    "GELU": _gelu,
    "SiLU": lambda values: values * _sigmoid(values),
    "Sigmoid": _sigmoid,
}
