"""The operations of an ingest on their way to the wire, and acks on their way back.

Pure functions. An operation that cannot be sent becomes a failed ack of its own and leaves its neighbours alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shortlist._convert import choice_from_proto, fill_document
from shortlist._document_types import Deletion, Document
from shortlist._errors import DocumentTooLarge, InternalError, InvalidArgument, ShortlistError
from shortlist._ingest_types import Ack, AckStatus
from shortlist._metadata import checked_text
from shortlist._status import from_item_error
from shortlist.v1 import document_service_pb2 as pb

Operation = Document | Deletion | Mapping[str, Any]
"""What can be ingested: a document, a mapping with the keys of one, or a deletion."""

MESSAGE_OVERHEAD_BYTES = 1024
"""Bytes of the largest message kept free for the fields around an operation."""


@dataclass(frozen=True, slots=True)
class InvalidOperation:
    """Takes the place of an operation whose source is damaged. It fails with this message; the others go on."""

    id: str
    message: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """An operation ready for the wire, or the error that keeps it from being sent.

    Attributes:
        cost: its tokens of credit.
        bytes: its size on the wire.
    """

    id: str
    proto: pb.IngestOperation | None
    error: ShortlistError | None
    cost: int
    bytes: int


def prepare(operation: object, max_message_bytes: int) -> Prepared:
    """Translates an operation."""
    id = id_of(operation)
    try:
        proto = _to_proto(operation)
    except InvalidArgument as error:
        return Prepared(id, None, error, 0, 0)
    size = proto.ByteSize()
    if size + MESSAGE_OVERHEAD_BYTES > max_message_bytes:
        too_large = DocumentTooLarge(
            f"the document has {size:,} bytes; a message has {max_message_bytes:,} at most", field="document"
        )
        return Prepared(id, None, too_large, 0, 0)
    return Prepared(id, proto, None, operation_cost(proto), size)


def operation_cost(proto: pb.IngestOperation) -> int:
    """Tokens of credit that an operation takes; the formula is the contract's (``IngestCredit``)."""
    document = proto.upsert
    texts = (document.id, proto.delete_id, document.title, document.text)
    encoded = sum(len(text.encode()) for text in texts) + document.metadata.ByteSize()
    return 1 + encoded // 4 + (len(document.vector) + len(document.vector_f32) // 4) // 16


def _to_proto(operation: object) -> pb.IngestOperation:
    if isinstance(operation, InvalidOperation):
        raise InvalidArgument(operation.message)
    if isinstance(operation, Deletion):
        return pb.IngestOperation(delete_id=checked_text(operation.id, "delete_id"))
    if isinstance(operation, Document | Mapping):
        proto = pb.IngestOperation()
        fill_document(proto.upsert, operation)
        return proto
    raise InvalidArgument(
        f"must be a Document, a Deletion or a mapping, not {type(operation).__name__}", field="change"
    )


def id_of(operation: object) -> str:
    """The id that an operation has, as its ack will show it."""
    id = operation.get("id", "") if isinstance(operation, Mapping) else getattr(operation, "id", "")
    return id if isinstance(id, str) else str(id)


def ack_from_proto(proto: pb.IngestAck, index: int) -> Ack:
    """An ack from the wire; ``index`` is the operation's place in the ingest."""
    name = choice_from_proto(pb.AckStatus, "ACK_STATUS", proto.status)
    if name not in tuple(AckStatus):
        raise InternalError(f"the server acknowledged with a status this release does not know: {name}")
    return Ack(
        index=index,
        id=proto.id,
        status=AckStatus(name),
        sequence=proto.sequence,
        error=from_item_error(proto.error) if proto.status == pb.ACK_STATUS_FAILED else None,
        tokens=proto.tokens,
        truncated_tokens=proto.truncated_tokens,
        passages=proto.passages,
        estimated_seconds=proto.estimated_time.ToTimedelta().total_seconds(),
    )
