"""The operations of an ingest stream and what becomes of them.

All are frozen values except ``Prepared``, which belongs to the session that made it.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shortlist_server.domain import Change, DeadLetter, Deletion, Document, NewPassage, Upsert
from shortlist_server.errors import InferenceFailed, ShortlistError, error_class
from shortlist_server.inference.base import CutText, PassageEmbedding


def _nothing() -> bytes | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of a stream. ``change`` is an error where the edge refused the operation.

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
    """An operation on its way to the commit. Once embedded, it has exactly one of ``change`` and ``settled``."""

    operation: Operation
    cut: CutText | None = None
    hash: bytes = b""
    change: Change | None = None
    settled: Ack | None = None
    replayed: bool = False

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
            passages=len(upsert.passages) if upsert else len(embedded),
            estimated_seconds=estimated_seconds,
        )

    def join(self, embeddings: Sequence[PassageEmbedding | Exception]) -> None:
        """Makes a document's upsert from the embeddings of its passages, or settles the operation as failed."""
        assert self.cut is not None
        assert isinstance(self.operation.change, Document)
        passages = []
        for text, embedding in zip(self.cut.passages, embeddings, strict=True):
            if isinstance(embedding, Exception):
                error = embedding if isinstance(embedding, ShortlistError) else InferenceFailed(str(embedding))
                self.settle(AckStatus.FAILED, error=error)
                return
            passages.append(
                NewPassage(
                    start=text.start,
                    end=text.end,
                    vector=embedding.vector,
                    tokens=embedding.tokens,
                    token_vectors=embedding.token_vectors,
                )
            )
        self.change = Upsert(document=self.operation.change, passages=passages, content_hash=self.hash)
