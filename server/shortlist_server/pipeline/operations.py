"""The operations of an ingest stream and what becomes of them.

All are frozen values except ``Prepared``, which belongs to the session that made it.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shortlist_server.domain import Change, DeadLetter, Deletion, Document, NewPassage, Upsert
from shortlist_server.errors import ShortlistError, error_class
from shortlist_server.inference.base import CutText


def _nothing() -> bytes | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of a stream. If the edge refused the operation, ``change`` is its error.

    Attributes:
        cost: in credit tokens, as the proto defines it.
        payload: returns the document as it came, for the dead letters; None where it is too large to keep.
    """

    position: int
    id: str
    change: Document | Deletion | ShortlistError
    cost: int
    payload: Callable[[], bytes | None] = _nothing


class AckStatus(enum.Enum):
    """What became of an operation."""

    DURABLE = "durable"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    REPLAYED = "replayed"
    FAILED = "failed"
    VALID = "valid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The acknowledgement of one operation, with the fields of the proto's ``IngestAck``."""

    position: int
    id: str
    status: AckStatus
    cost: int
    sequence: int = 0
    error: ShortlistError | None = None
    tokens: int = 0
    truncated_tokens: int = 0
    passages: int = 0
    estimated_seconds: float | None = None


@dataclass(slots=True)
class Prepared:
    """An operation on its way to the commit. Once prepared, it has exactly one of ``change`` and ``settled``.

    Attributes:
        serving: the number of the generation whose passages the acknowledgement counts.
        cuts: the document as cut for each generation that embeds it, by number.
        passages: what the document gets in each generation, by number, as far as it is known.
    """

    operation: Operation
    hash: bytes = b""
    serving: int = 0
    cuts: dict[int, CutText] = field(default_factory=dict)
    passages: dict[int, Sequence[NewPassage]] = field(default_factory=dict)
    change: Change | None = None
    settled: Ack | None = None
    replayed: bool = False

    @property
    def cut(self) -> CutText | None:
        """The document as cut for the serving generation; None if that does not embed it."""
        return self.cuts.get(self.serving)

    @property
    def document(self) -> Document | None:
        """The document to store; None for any other operation, and for a settled one."""
        change = self.operation.change
        return change if self.settled is None and isinstance(change, Document) else None

    def failure(self, stream: str) -> DeadLetter | None:
        """The dead letter to keep of a refused document; None for any other operation."""
        error = None if self.settled is None else self.settled.error
        if error is None or self.replayed:
            return None
        return DeadLetter(
            id=self.operation.id,
            stream=stream,
            position=self.operation.position,
            time_seconds=time.time(),
            reason=error.reason,
            message=error.message,
            field=error.field,
            retryable=error.retryable,
            document=self.operation.payload(),
        )

    def replay(self, failure: DeadLetter | None) -> None:
        """Settles a replayed operation with its first outcome; ``failure`` is None unless it failed."""
        self.replayed = True
        if failure is None:
            self.settle(AckStatus.REPLAYED)
        else:
            error = error_class(failure.reason)(failure.message, field=failure.field)
            self.settle(AckStatus.FAILED, error=error)

    def settle(self, status: AckStatus, *, sequence: int = 0, error: ShortlistError | None = None) -> None:
        """Records what became of the operation."""
        self.settled = self.ack(status, sequence=sequence, error=error)

    def ack(
        self,
        status: AckStatus,
        *,
        sequence: int = 0,
        error: ShortlistError | None = None,
        estimated_seconds: float | None = None,
    ) -> Ack:
        """The acknowledgement with this outcome."""
        embedded = () if self.cut is None or status is AckStatus.UNCHANGED else self.cut.passages
        upsert = self.change if isinstance(self.change, Upsert) else None
        return Ack(
            position=self.operation.position,
            id=self.operation.id,
            cost=self.operation.cost,
            status=status,
            sequence=sequence,
            error=error,
            tokens=sum(passage.tokens for passage in embedded),
            truncated_tokens=0 if self.cut is None else self.cut.truncated_tokens,
            passages=len(upsert.passages[self.serving]) if upsert else len(embedded),
            estimated_seconds=estimated_seconds,
        )

    def join(self) -> None:
        """Makes the change to commit, unless the operation is settled."""
        if (document := self.document) is not None:
            self.change = Upsert(document=document, passages=dict(self.passages), content_hash=self.hash)

    def begin_again(self, serving: int) -> None:
        """Forgets what was made for the earlier generations."""
        self.serving = serving
        self.cuts.clear()
        self.passages.clear()
        if self.document is not None:
            self.change = None
