"""Makes one vector of a text's hidden states, by the pooling methods of sentence-transformers.

Pure functions; any thread. Formulas: sentence-transformers, ``Pooling`` (https://sbert.net/docs/package_reference/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which older pooling files, which have a flag for each mode, put the vectors side by side."""

_LEAST = np.float32(1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How a text's vector is made.

    Attributes:
        modes: out of ``MODES``; the vectors of several modes stand side by side.
        include_prompt: whether the prompt's tokens count.
    """

    modes: tuple[str, ...]
    include_prompt: bool = True

    @property
    def name(self) -> str:
        """Its name in a model's revision: "mean", "mean+max", "mean without prompt"."""
        return "+".join(self.modes) + ("" if self.include_prompt else " without prompt")

    @property
    def is_plain(self) -> bool:
        """Whether a ``PooledForward`` can apply it."""
        return self.include_prompt and self.modes in (("cls",), ("mean",), ("lasttoken",))

    def pool(self, hidden: Floats, mask: Ids, prompt_tokens: Sequence[int] = ()) -> Floats:
        """One vector for each text, shape (texts, len(modes) * width).

        Args:
            hidden: shape (texts, tokens, width).
            mask: shape (texts, tokens): 1 for tokens, 0 for the padding after them.
            prompt_tokens: how many tokens of each text belong to its prompt; they count only with ``include_prompt``.
        """
        if not self.include_prompt and any(prompt_tokens):
            mask = mask * (np.arange(mask.shape[1]) >= np.array(prompt_tokens)[:, None])
        pooled = [_POOL[mode](hidden, mask) for mode in self.modes]
        return pooled[0] if len(pooled) == 1 else np.concatenate(pooled, axis=1)


def _first(hidden: Floats, mask: Ids) -> Floats:
    return np.asarray(hidden[np.arange(len(hidden)), mask.argmax(axis=1)])


def _last(hidden: Floats, mask: Ids) -> Floats:
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    # For a text without tokens, sentence-transformers gives zeros.
    return np.asarray(hidden[np.arange(len(hidden)), last] * mask.any(axis=1, keepdims=True), dtype=np.float32)


def _largest(hidden: Floats, mask: Ids) -> Floats:
    return np.asarray(np.where(mask[:, :, None] > 0, hidden, -np.inf).max(axis=1), dtype=np.float32)


def _mean(hidden: Floats, mask: Ids) -> Floats:
    weights = mask.astype(np.float32)
    return _sum(hidden, weights, weights.sum(axis=1, keepdims=True))


def _mean_by_root(hidden: Floats, mask: Ids) -> Floats:
    weights = mask.astype(np.float32)
    return _sum(hidden, weights, np.sqrt(weights.sum(axis=1, keepdims=True)))


def _mean_by_position(hidden: Floats, mask: Ids) -> Floats:
    # Positions count from the first token, prompt included.
    weights = mask.astype(np.float32) * np.arange(1, mask.shape[1] + 1, dtype=np.float32)
    return _sum(hidden, weights, weights.sum(axis=1, keepdims=True))


def _sum(hidden: Floats, weights: Floats, divisor: Floats) -> Floats:
    # Not a matrix product, because BLAS threads would wait for cores that the other lane holds.
    summed = np.einsum("btw,bt->bw", hidden, weights)
    return np.asarray(summed / np.maximum(divisor, _LEAST), dtype=np.float32)


_POOL = {
    "cls": _first,
    "max": _largest,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _mean_by_position,
    "lasttoken": _last,
}
