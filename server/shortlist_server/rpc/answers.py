"""Answers on their way: how many of them, and how many bytes, wait in the transport for clients to take them.

A client may open no window for an answer, and then the transport keeps it. What waits is bounded for each caller, so
that one that takes nothing does not keep others from being answered, and in all. Coroutines on the server's event loop.
"""

from __future__ import annotations

from contextlib import ExitStack

from shortlist_server.pipeline.portions import answer_too_large
from shortlist_server.rpc.slots import Slots
from shortlist_server.storage.compaction import memory

SMALL_BYTES = 64 * 1024
"""Answers up to this size are bounded by number alone, so that large ones of others never keep a search from being
answered."""

MAX_ANSWERS, MAX_ANSWERS_OF_CALLER = 1024, 256
"""More than are written at once where every client takes its answers."""

CALLERS_SHARE = 2
"""One caller's part of the bytes is one in so many."""

RETRY_SECONDS = 0.25


class AnswerRoom:
    """How much of an answer that is made of several parts is left; it tells as soon as they are too large."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.taken = 0

    def take(self, size: int) -> None:
        """Takes room for a part. Raises ``InvalidArgument`` when there is none."""
        self.taken += size
        if self.taken > self._max_bytes:
            raise answer_too_large(self._max_bytes)


class UnsentAnswers:
    """Counts the answers that are not sent yet."""

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes``: of the large ones together, as they are on the wire; the process holds them twice."""
        self._answers = Slots(
            "max_unsent_answers",
            MAX_ANSWERS,
            "max_unsent_answers_per_caller",
            MAX_ANSWERS_OF_CALLER,
            RETRY_SECONDS,
        )
        self._bytes = Slots(
            "max_unsent_bytes",
            max_bytes,
            "max_unsent_bytes_per_caller",
            max(1, max_bytes // CALLERS_SHARE),
            RETRY_SECONDS,
        )
        self._memory = memory.Trimmer()

    def check(self, caller: str, *, large: bool) -> None:
        """Raises ``Overloaded`` where an answer would be made in vain; ``large``: it may well be over 64 KiB."""
        self._answers.check(caller)
        if large:
            self._bytes.check(caller)

    def take(self, held: ExitStack, caller: str, size: int) -> None:
        """Takes room for an answer, for as long as the stack is open. Raises ``Overloaded`` where there is none."""
        held.enter_context(self._answers.taking(caller))
        if size > SMALL_BYTES:
            held.callback(self._memory.freed)
            held.enter_context(self._bytes.taking(caller, size))
