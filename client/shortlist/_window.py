"""What an ingest has read but has no ack for: what of it may be sent, and what must be sent again after a break.

Memory is bounded by the server's credit, ``MAX_PENDING_OPERATIONS`` and ``MAX_PENDING_BYTES``. An operation leaves only
by ``settle``. Of one run; not thread-safe.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from shortlist._ingest_operations import Prepared
from shortlist.v1 import document_service_pb2 as pb

MAX_PENDING_OPERATIONS = 4096
MAX_PENDING_BYTES = 16 * 1024 * 1024
"""What is read ahead of the acks at most; the last operation may go beyond."""

MAX_BATCH_OPERATIONS = 500
MAX_BATCH_BYTES = 256 * 1024
"""Size of a message with several operations; a larger operation goes alone."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An operation without an ack: its place in the ingest from 0, and its position in the stream."""

    index: int
    position: int
    operation: Prepared


class Window:
    """The operations without an ack, in order."""

    def __init__(self) -> None:
        self._pending: deque[Pending] = deque()
        self._bytes = 0
        self._unsent: deque[Pending] = deque()
        self._unsent_cost = 0
        self._in_flight = 0
        self._credit = 0

    def restart(self) -> None:
        """A new connection: everything without an ack is unsent, and there is no credit yet."""
        self._unsent = deque(item for item in self._pending if item.operation.proto is not None)
        self._unsent_cost = sum(item.operation.cost for item in self._unsent)
        self._in_flight = self._credit = 0

    def grant(self, tokens: int) -> None:
        """The server gives credit."""
        self._credit += tokens

    def has_room(self) -> bool:
        """Whether another operation may be read."""
        return not self._pending or (
            self._unsent_cost < self._credit
            and len(self._pending) < MAX_PENDING_OPERATIONS
            and self._bytes < MAX_PENDING_BYTES
        )

    def add(self, item: Pending) -> None:
        """Takes an operation; one that cannot be sent only waits for its turn."""
        if item.operation.proto is not None:
            item.operation.proto.position = item.position
            self._unsent.append(item)
            self._unsent_cost += item.operation.cost
        self._pending.append(item)
        self._bytes += item.operation.bytes

    def take_batch(self, max_bytes: int) -> pb.IngestBatch | None:
        """The next operations to send, within the credit and so many bytes; None when there are none."""
        operations: list[pb.IngestOperation] = []
        size = 0
        while self._unsent and len(operations) < MAX_BATCH_OPERATIONS:
            operation = self._unsent[0].operation
            # An operation larger than all the credit there is goes alone.
            fits = operation.cost <= self._credit or self._in_flight == 0
            if not fits or (operations and size + operation.bytes > max_bytes):
                break
            self._unsent.popleft()
            self._unsent_cost -= operation.cost
            self._credit -= operation.cost
            self._in_flight += 1
            size += operation.bytes
            assert operation.proto is not None
            operations.append(operation.proto)
        return pb.IngestBatch(operations=operations) if operations else None

    def first(self) -> Pending | None:
        """The operation whose ack is next."""
        return self._pending[0] if self._pending else None

    def settle(self) -> None:
        """The first operation has its ack."""
        operation = self._pending.popleft().operation
        self._bytes -= operation.bytes
        self._in_flight -= operation.proto is not None

    def all_sent(self) -> bool:
        """Whether nothing is waiting to be sent."""
        return not self._unsent

    def __len__(self) -> int:
        return len(self._pending)
