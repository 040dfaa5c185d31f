"""What an ingest answers, as values.

Frozen, safe to share between threads.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from shortlist._errors import ShortlistError


class AckStatus(enum.StrEnum):
    """What became of an operation."""

    DURABLE = "durable"
    """Committed, synced to disk and searchable."""
    UNCHANGED = "unchanged"
    """The stored document has the same content under the same model; nothing was embedded or written."""
    SUPERSEDED = "superseded"
    """A later operation of the same commit has the same id; that one holds."""
    REPLAYED = "replayed"
    """It was applied before the stream was resumed."""
    FAILED = "failed"
    """Not applied; the ack's ``error`` says why."""
    VALID = "valid"
    """Dry run: it would be accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What became of one operation; acks come in the order of the operations.

    Attributes:
        index: place of the operation in what was ingested, from 0.
        id: the document's id.
        sequence: number of the commit, or of the version that is there; 0 when it failed.
        error: why it failed, as one would be raised; None when it did not. ``error.retryable`` says whether the same
            operation may succeed later.
        tokens: tokens embedded.
        truncated_tokens: tokens of the text that are in no passage (overflow policy "truncate").
        passages: passages made.
        estimated_seconds: dry run: time the operation would take on an idle server.
    """

    index: int
    id: str
    status: AckStatus
    sequence: int = 0
    error: ShortlistError | None = None
    tokens: int = 0
    truncated_tokens: int = 0
    passages: int = 0
    estimated_seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the operation did not fail."""
        return self.error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """An ingest so far.

    Attributes:
        acked: operations with an ack, the sum of the six below.
        durable, unchanged, superseded, replayed, failed, valid: operations by what became of them.
        skipped: operations at the start that an earlier run had settled and that were not sent again.
        failures: acks of failed operations, the first 1,000; ``failed`` counts all.
        tokens, truncated_tokens, passages: sums over the acks.
        estimated_seconds: dry run: sum over the acks.
        searchable_sequence: searches see everything up to this commit.
        reconnects: how often the connection was made again.
        seconds: time since the start.
        stream: name of the stream, to resume it by.
        complete: whether every operation has an ack.
    """

    acked: int = 0
    durable: int = 0
    unchanged: int = 0
    superseded: int = 0
    replayed: int = 0
    failed: int = 0
    valid: int = 0
    skipped: int = 0
    failures: tuple[Ack, ...] = ()
    tokens: int = 0
    truncated_tokens: int = 0
    passages: int = 0
    estimated_seconds: float = 0.0
    searchable_sequence: int = 0
    reconnects: int = 0
    seconds: float = 0.0
    stream: str = ""
    complete: bool = False
