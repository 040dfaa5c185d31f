"""A random sample of a stream, in which old items fade.

The count of items seen is bounded, so each new item gets in with the same probability and replaces a random one
(Aggarwal, "On biased reservoir sampling in the presence of stream evolution", VLDB 2006). One thread at a time.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")

MEMORY = 10
"""Mean age of a kept item in a long stream: this many times the reservoir's size, counted in items."""


class Reservoir(Generic[T]):
    """Up to ``size`` items of a stream.

    Attributes:
        items: those kept, in no particular order.
    """

    def __init__(self, size: int) -> None:
        self.items: list[T] = []
        self._size = size
        self._seen = 0
        self._random = np.random.default_rng()

    def wants(self) -> bool:
        """Counts one more item of the stream; whether to ``add`` it."""
        self._seen = min(self._seen + 1, MEMORY * self._size)
        return len(self.items) < self._size or self._random.random() * self._seen < self._size

    def add(self, item: T) -> None:
        """Keeps an item, in place of a random one once the reservoir is full."""
        if len(self.items) < self._size:
            self.items.append(item)
        else:
            self.items[self._random.integers(self._size)] = item

    def take(self) -> T:
        """Removes and returns a random item. The reservoir must not be empty."""
        return self.items.pop(self._random.integers(len(self.items)))

    def some(self, count: int) -> list[T]:
        """Up to ``count`` items at random, all different."""
        order = self._random.permutation(len(self.items))[:count]
        return [self.items[place] for place in order]
