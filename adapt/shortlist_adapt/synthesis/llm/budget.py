"""What the LLM's work may cost: a limit in tokens that is held, and estimates beforehand.

Documents are admitted in their order, each only while its worst case fits into what is left. Where it does not fit
beside the documents under way, it waits until their true cost is known. So the last document admitted depends on the
answers alone, not on which of them came first.
"""

from __future__ import annotations

import math

BYTES_PER_TOKEN = 4
"""Of English prose. Estimates only."""

FEWEST_BYTES_PER_TOKEN = 2
"""Below what tokenizers give for texts of any language, except for stray symbols."""

TEMPLATE_TOKENS = 64
"""What a chat template puts around the messages."""


def estimated_tokens(size: int) -> int:
    """Tokens that a text of ``size`` bytes likely has."""
    return math.ceil(size / BYTES_PER_TOKEN)


def most_tokens(size: int) -> int:
    """Tokens that a prompt of ``size`` bytes has at most, its template included."""
    return math.ceil(size / FEWEST_BYTES_PER_TOKEN) + TEMPLATE_TOKENS


class TokenBudget:
    """Tokens spent and reserved. One thread.

    Attributes:
        limit: 0 for none.
        spent: what documents that are done have cost.
    """

    def __init__(self, limit: int) -> None:
        """Nothing is spent yet."""
        self.limit = limit
        self.spent = 0
        self._reserved = 0

    def fits(self, most: int) -> bool:
        """Whether a document that costs at most so much can begin now."""
        return not self.limit or self.spent + self._reserved + most <= self.limit

    def reserve(self, most: int) -> None:
        """A document begins."""
        self._reserved += most

    def settle(self, most: int, cost: int) -> None:
        """A document that reserved ``most`` is done and has cost ``cost``."""
        self._reserved -= most
        self.spent += cost
