"""Documents, operations and acknowledgements."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import duration_pb2, struct_pb2
from numpy.typing import NDArray

from shortlist.v1 import document_pb2 as pb
from shortlist.v1 import document_service_pb2 as service_pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import DocumentTooLarge, InvalidArgument, InvalidVector, ShortlistError
from shortlist_server.pipeline.operations import Ack, Operation
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.errors import error_out

MAX_METADATA_LEVELS = 16
MAX_METADATA_KEYS = 256


def operation_in(message: service_pb.IngestOperation, config: Config) -> Operation:
    """An operation; where it is malformed its change is the error, so that it fails alone."""
    change: domain.Document | domain.Deletion | ShortlistError
    identifier = message.upsert.id if message.HasField("upsert") else message.delete_id
    try:
        kind = message.WhichOneof("change")
        if kind == "upsert":
            change = document_in(message.upsert, config)
        elif kind == "delete_id":
            change = domain.Deletion(id=fields.document_id(identifier, "delete_id"))
        else:
            change = InvalidArgument("an operation needs a change", field="change")
    except ShortlistError as error:
        change = error
    return Operation(position=message.position, id=identifier, change=change, cost=operation_cost(message))


def operation_cost(message: service_pb.IngestOperation) -> int:
    """The operation's cost in credit tokens, as the proto defines it."""
    document = message.upsert
    values = len(document.vector) + len(document.vector_f32) // 4
    return 1 + len((document.title + document.text).encode()) // 4 + values // 16


def document_in(message: pb.Document, config: Config) -> domain.Document:
    """A checked document.

    Raises:
        InvalidArgument: the id is malformed, or there is nothing to index.
        DocumentTooLarge: text or metadata are over a limit.
    """
    identifier = fields.document_id(message.id, "document.id")
    size = len(message.title.encode()) + len(message.text.encode())
    if size > config.max_document_bytes:
        raise DocumentTooLarge(
            f"{size} bytes of title and text, at most {config.max_document_bytes} are allowed; split the document",
            field="document.text",
            metadata={"limit": str(config.max_document_bytes)},
        )
    vector = _vector_in(message)
    if vector is None and not (message.text.strip() or message.title.strip()):
        raise InvalidArgument("a document needs a text, a title or a vector", field="document.text")
    return domain.Document(
        id=identifier,
        title=message.title,
        text=message.text,
        metadata=metadata_in(message.metadata, config),
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


def metadata_in(message: struct_pb2.Struct, config: Config) -> dict[str, Any]:
    """Metadata as JSON values; whole numbers become ints.

    Raises:
        InvalidArgument: a number is not finite.
        DocumentTooLarge: too many bytes, keys or levels.
    """
    if not message.fields:
        return {}
    keys = 0

    def value_in(value: struct_pb2.Value, level: int) -> Any:
        kind = value.WhichOneof("kind")
        if kind == "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise InvalidArgument("a number in metadata must be finite", field="document.metadata")
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        if kind == "struct_value":
            return struct_in(value.struct_value, level + 1)
        if kind == "list_value":
            check_level(level + 1)
            return [value_in(item, level + 1) for item in value.list_value.values]
        if kind in (None, "null_value"):
            return None
        return getattr(value, kind)

    def check_level(level: int) -> None:
        if level > MAX_METADATA_LEVELS:
            raise DocumentTooLarge(f"metadata has at most {MAX_METADATA_LEVELS} levels", field="document.metadata")

    def struct_in(struct: struct_pb2.Struct, level: int) -> dict[str, Any]:
        nonlocal keys
        check_level(level)
        keys += len(struct.fields)
        if keys > MAX_METADATA_KEYS:
            raise DocumentTooLarge(f"metadata has at most {MAX_METADATA_KEYS} keys", field="document.metadata")
        return {key: value_in(value, level) for key, value in sorted(struct.fields.items())}

    metadata = struct_in(message, 1)
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > config.max_metadata_bytes:
        raise DocumentTooLarge(
            f"{size} bytes of metadata, at most {config.max_metadata_bytes} are allowed",
            field="document.metadata",
            metadata={"limit": str(config.max_metadata_bytes)},
        )
    return metadata


def parts_in(message: pb.Include) -> domain.Parts:
    """Which parts of documents are asked for."""
    return domain.Parts(
        text=message.text if message.HasField("text") else True,
        metadata=message.metadata if message.HasField("metadata") else True,
        passages=message.passages or message.vectors,
        vectors=message.vectors,
    )


def document_out(document: domain.StoredDocument, parts: domain.Parts) -> pb.Document:
    """A document with the parts asked for."""
    message = pb.Document(id=document.id)
    if parts.text:
        message.title = document.title
        message.text = document.text
    if parts.metadata and document.metadata:
        message.metadata.update(document.metadata)
    return message


def stored_out(document: domain.StoredDocument, parts: domain.Parts) -> pb.StoredDocument:
    """A stored document with the parts asked for."""
    return pb.StoredDocument(
        document=document_out(document, parts),
        sequence=document.sequence,
        passage_count=document.passage_count,
        passages=[passage_out(passage, document.text) for passage in document.passages],
    )


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
