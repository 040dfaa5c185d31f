"""What an ingest answers, as values.

Frozen, safe to share between threads.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from shortlist._document_types import Document
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
        index: place of the operation in what was ingested, from 0; of a retry, the dead letter's number.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A document that an ingest stream could not take; the server keeps the newest failure of each id.

    Attributes:
        number: identifies the dead letter in the collection.
        id: as the client sent it, well-formed or not.
        stream, position: where it came from; "" for an unnamed stream.
        time: when it failed, in UTC.
        error: why, as one would be raised.
        retriable: whether the document was kept, so that it can be retried; one over the size limits was not.
        document: the document with its vector, when it was asked for and kept.
    """

    number: int
    id: str
    stream: str
    position: int
    time: datetime
    error: ShortlistError
    retriable: bool
    document: Document | None = None
