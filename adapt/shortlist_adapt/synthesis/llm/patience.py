"""When the step gives up on a model that does not answer, instead of making nothing of all the documents that are left.

A document without an answer is left out of a run that ends well. Many in a row, or the last ones, mean that the
endpoint is away: then the step fails, and is to be run again when the endpoint is back. Answers stay in the cache.
"""

from __future__ import annotations

from shortlist_adapt.synthesis.llm.asking import Outcome
from shortlist_adapt.synthesis.llm.chat import EndpointFailed

MOST_IN_A_ROW = 10
MOST_AT_THE_END = 3


class Patience:
    """Follows the outcomes in their order. One thread."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._silent = 0
        self._failed = 0
        self._answered = False
        self._detail = ""

    def note(self, outcome: Outcome) -> None:
        """A document is done. Raises ``EndpointFailed``."""
        self._answered = self._answered or outcome.calls > 0
        if outcome.unanswered or outcome.not_taken:
            self._failed += 1
            self._detail = outcome.rejections[-1].detail
        if outcome.unanswered:
            self._silent += 1
        elif outcome.not_taken or outcome.calls:
            self._silent = 0
        if self._silent >= MOST_IN_A_ROW or (self._failed >= MOST_IN_A_ROW and not self._answered):
            raise self._failure()

    def end(self) -> None:
        """All documents are done. Raises ``EndpointFailed``."""
        if self._silent >= MOST_AT_THE_END or (self._failed and not self._answered):
            raise self._failure()

    def _failure(self) -> EndpointFailed:
        count = self._silent if self._answered else self._failed
        documents = "document" if count == 1 else "documents"
        return EndpointFailed(
            f"{self._detail}; {count} {documents} in a row got no answer. Answers are kept: run the step again to go on"
        )
