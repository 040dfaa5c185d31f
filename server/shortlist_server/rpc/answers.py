"""Bounds the answers that wait in the transport for clients to take them, by number and by bytes.

A client that opens no window for an answer leaves it in the transport. There is a bound for each caller, which protects
the others, and one for all together. Coroutines on the server's event loop.
"""

from __future__ import annotations

from contextlib import ExitStack

from shortlist_server import memory
from shortlist_server.pipeline.portions import answer_too_large
from shortlist_server.rpc.slots import Slots

SMALL_BYTES = 64 * 1024
"""Answers up to this size are bounded by number alone: large answers to others never block that to a search."""

MAX_ANSWERS, MAX_ANSWERS_OF_CALLER = 1024, 256
"""More than wait at any time while every client takes its answers."""

CALLERS_SHARE = 2
"""One caller may have this fraction (one half) of the bytes."""

RETRY_SECONDS = 0.25


class AnswerRoom:
    """The room left in an answer of several parts; fails as soon as they are too large together."""

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
        """``max_bytes``: of all large ones together, on the wire; the process holds each twice."""
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
        """Raises ``Overloaded`` where there is no room for an answer; ``large``: it may be over 64 KiB."""
        self._answers.check(caller)
        if large:
            self._bytes.check(caller)

    def take(self, held: ExitStack, caller: str, size: int) -> None:
        """Takes room for an answer until the stack closes. Raises ``Overloaded`` where there is none."""
        held.enter_context(self._answers.taking(caller))
        if size > SMALL_BYTES:
            held.callback(self._memory.freed)
            held.enter_context(self._bytes.taking(caller, size))
