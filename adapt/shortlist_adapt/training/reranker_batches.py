"""The batches of a reranker's training: queries of similar length together, in an order drawn anew for each epoch.

Order and draws follow from seed and epoch alone, so a training that goes on after a kill sees the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortlist_adapt.records import TrainingPair
from shortlist_adapt.training.reranker_inputs import EncodesPairs, arrays, by_length

Key = tuple[int, int]
"""An epoch, and the index of a pair."""

_CHUNK_STEPS = 8
"""Pairs are sorted by length within the pairs of so many steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A query with its passages, the positive first."""

    query: str
    passages: tuple[str, ...]


class Groups:
    """The pairs of a training as a torch dataset. A pair has other negatives in each epoch if it has many."""

    def __init__(self, pairs: Sequence[TrainingPair], negatives: int, seed: int) -> None:
        self._pairs = pairs
        self._negatives = negatives
        self._seed = seed

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, key: Key) -> Group:
        epoch, index = key
        pair = self._pairs[index]
        chosen: Sequence[int] = range(len(pair.negatives))
        if len(chosen) > self._negatives:
            draw = np.random.default_rng([self._seed, epoch, index])
            chosen = sorted(draw.choice(len(chosen), self._negatives, replace=False).tolist())
        return Group(query=pair.query, passages=(pair.positive, *(pair.negatives[place] for place in chosen)))

    def length(self, index: int) -> float:
        """About how long the texts of a pair are, in characters of one text."""
        pair = self._pairs[index]
        texts = (pair.positive, *pair.negatives)
        return len(pair.query) + sum(map(len, texts)) / len(texts)


class LengthBatches:
    """Batches of pairs, by key, for torch's ``DataLoader``.

    Args:
        size: pairs in a batch, a divisor of ``step_size``; the last batch of an epoch may have fewer.
        step_size: pairs in an optimizer step.
    """

    def __init__(self, groups: Groups, *, size: int, step_size: int, seed: int) -> None:
        self._lengths = np.array([groups.length(index) for index in range(len(groups))])
        self._size = size
        self._chunk = step_size * _CHUNK_STEPS
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self._lengths) / self._size)

    def __iter__(self) -> Iterator[list[Key]]:
        draw = np.random.default_rng([self._seed, self.epoch])
        order = draw.permutation(len(self._lengths))
        batches: list[list[Key]] = []
        for start in range(0, len(order), self._chunk):
            chunk = order[start : start + self._chunk]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            batches += [
                [(self.epoch, int(index)) for index in chunk[first : first + self._size]]
                for first in range(0, len(chunk), self._size)
            ]
        # A smaller batch stays last: within a step of several batches, each counts the same.
        whole = [batch for batch in batches if len(batch) == self._size]
        rest = [batch for batch in batches if len(batch) < self._size]
        yield from (whole[place] for place in draw.permutation(len(whole)))
        yield from rest


class Collate:
    """Encodes the groups of a batch.

    Gives ``parts``, a list of inputs of the scorer, each of pairs of similar length; ``order``, of shape (pairs,),
    which puts the parts' scores into the order of the groups; and ``present``, of shape (groups, passages), bool.
    """

    def __init__(self, tokenizer: EncodesPairs, *, pad_id: int | None, batch_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self._batch_tokens = batch_tokens

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        """The batch; see the class."""
        import torch

        pairs = [pair for group in groups for pair in self._tokenizer.encode(group.query, group.passages)]
        rows = by_length(pairs, self._batch_tokens)
        parts = [arrays([pairs[row] for row in part], self._pad_id) for part in rows]
        order = np.argsort(np.concatenate(rows), kind="stable")
        sizes = np.array([len(group.passages) for group in groups])
        present = np.arange(sizes.max()) < sizes[:, None]
        return {
            "parts": [{name: torch.from_numpy(array) for name, array in part.items()} for part in parts],
            "order": torch.from_numpy(order),
            "present": torch.from_numpy(present),
        }
