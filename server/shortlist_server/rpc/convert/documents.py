"""Documents, operations and acknowledgements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from google.protobuf import duration_pb2
from numpy.typing import NDArray

from shortlist.v1 import document_pb2 as pb
from shortlist.v1 import document_service_pb2 as service_pb
from shortlist.v1 import error_pb2 as error_pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import DocumentTooLarge, InvalidArgument, InvalidVector, ShortlistError
from shortlist_server.pipeline.operations import Ack, Operation
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.errors import error_out
from shortlist_server.rpc.convert.metadata import metadata_in


def operation_in(message: service_pb.IngestOperation, config: Config) -> Operation:
    """An operation; where it is malformed its change is the error, so that it fails alone."""
    change: domain.Document | domain.Deletion | ShortlistError
    kind = message.WhichOneof("change")
    identifier, cost = "", 1
    payload: Callable[[], bytes | None] = _no_payload
    try:
        if kind == "upsert":
            document = message.upsert
            identifier = document.id
            size = len(document.title.encode()) + len(document.text.encode())
            cost = _cost(document, size)
            payload = partial(_payload, document, config.max_document_bytes + config.max_metadata_bytes)
            change = document_in(document, size, config)
        elif kind == "delete_id":
            identifier = message.delete_id
            cost = 1 + len(identifier.encode()) // 4
            change = domain.Deletion(id=fields.document_id(identifier, "delete_id"))
        else:
            change = InvalidArgument("an operation needs a change", field="change")
    except ShortlistError as error:
        change = error
    return Operation(position=message.position, id=identifier, change=change, cost=cost, payload=payload)


def _cost(document: pb.Document, text_bytes: int) -> int:
    """Credit tokens that a document takes, as the proto defines them; its title and text have so many bytes."""
    encoded = text_bytes + len(document.id.encode()) + document.metadata.ByteSize()
    return 1 + encoded // 4 + (len(document.vector) + len(document.vector_f32) // 4) // 16


def _payload(document: pb.Document, max_bytes: int) -> bytes | None:
    return document.SerializeToString() if document.ByteSize() <= max_bytes else None


def _no_payload() -> bytes | None:
    return None


def retried_in(failure: domain.DeadLetter, config: Config) -> Operation:
    """The operation that retries a dead letter; its position is the dead letter's number."""
    assert failure.document is not None
    operation = service_pb.IngestOperation(position=failure.number)
    operation.upsert.ParseFromString(failure.document)
    return operation_in(operation, config)


def dead_letter_out(failure: domain.DeadLetter, *, with_document: bool) -> service_pb.DeadLetter:
    """A dead letter."""
    message = service_pb.DeadLetter(
        number=failure.number,
        id=failure.id,
        stream=failure.stream,
        position=failure.position,
        retriable=failure.document is not None,
        error=error_pb.Error(
            reason=error_pb.ErrorReason.Value(f"ERROR_REASON_{failure.reason}"),
            message=failure.message,
            field=failure.field,
            retryable=failure.retryable,
        ),
    )
    message.time.FromMilliseconds(round(failure.time_seconds * 1000))
    if with_document and failure.document is not None:
        message.document.ParseFromString(failure.document)
    return message


def document_in(message: pb.Document, size: int, config: Config) -> domain.Document:
    """A checked document; ``size`` is the bytes of its title and text.

    Raises:
        InvalidArgument: the id is malformed, or there is nothing to index.
        DocumentTooLarge: text or metadata are over a limit.
    """
    if size > config.max_document_bytes:
        raise DocumentTooLarge(
            f"{size} bytes of title and text, at most {config.max_document_bytes} are allowed; split the document",
            field="document.text",
            metadata={"limit": str(config.max_document_bytes)},
        )
    vector = _vector_in(message)
    title, text = message.title, message.text
    if vector is None and not (text.strip() or title.strip()):
        raise InvalidArgument("a document needs a text, a title or a vector", field="document.text")
    return domain.Document(
        id=fields.document_id(message.id, "document.id"),
        title=title,
        text=text,
        metadata=metadata_in(message.metadata, config.max_metadata_bytes) if message.HasField("metadata") else {},
        vector=vector,
    )


def _vector_in(message: pb.Document) -> NDArray[np.float32] | None:
    if message.vector_f32:
        if message.vector:
            raise InvalidVector("a document has one vector", field="document.vector_f32")
        if len(message.vector_f32) % 4:
            raise InvalidVector(
                f"{len(message.vector_f32)} bytes are no whole number of float32 values", field="document.vector_f32"
            )
        return np.frombuffer(message.vector_f32, dtype="<f4")
    return np.array(message.vector, dtype=np.float32) if message.vector else None


def include_in(message: pb.Include) -> domain.Include:
    """Which parts of documents are asked for."""
    return domain.Include(
        text=message.text if message.HasField("text") else True,
        metadata=message.metadata if message.HasField("metadata") else True,
        passages=message.passages or message.vectors,
        vectors=message.vectors,
    )


def fill_document(message: pb.Document, document: domain.StoredDocument, include: domain.Include) -> None:
    """Fills in a document with the parts asked for. In its place, because a copy of a long text costs too much."""
    message.id = document.id
    if include.text:
        message.title = document.title
        message.text = document.text
    if include.metadata and document.metadata:
        message.metadata.update(document.metadata)


def stored_out(document: domain.StoredDocument, include: domain.Include) -> pb.StoredDocument:
    """A stored document with the parts asked for."""
    message = pb.StoredDocument(
        sequence=document.sequence,
        passage_count=document.passage_count,
        passages=[passage_out(passage, document.text) for passage in document.passages],
    )
    fill_document(message.document, document, include)
    return message


def passage_out(passage: domain.StoredPassage, text: str) -> pb.Passage:
    """A passage of a document with this text."""
    return pb.Passage(
        ordinal=passage.ordinal,
        start=passage.start,
        end=passage.end,
        text=text[passage.start : passage.end],
        tokens=passage.tokens,
        vector=() if passage.vector is None else passage.vector.tolist(),
    )


def acks_out(acks: Sequence[Ack], searchable_sequence: int) -> service_pb.IngestResponse:
    """A message of acknowledgements."""
    return service_pb.IngestResponse(
        acks=service_pb.IngestAcks(acks=[_ack_out(ack) for ack in acks], searchable_sequence=searchable_sequence)
    )


def _ack_out(ack: Ack) -> service_pb.IngestAck:
    message = service_pb.IngestAck(
        position=ack.position,
        id=ack.id,
        status=service_pb.AckStatus.Value(f"ACK_STATUS_{ack.status.name}"),
        sequence=ack.sequence,
        tokens=ack.tokens,
        truncated_tokens=ack.truncated_tokens,
        passages=ack.passages,
    )
    if ack.error is not None:
        message.error.CopyFrom(error_out(ack.error))
    if ack.estimated_seconds is not None:
        message.estimated_time.CopyFrom(duration_out(ack.estimated_seconds))
    return message


def duration_out(seconds: float) -> duration_pb2.Duration:
    """Seconds as a Duration, to the nanosecond."""
    nanos = round(seconds * 1e9)
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
