"""Values to protos and back.

Pure functions; ``_metadata`` has those for metadata. What cannot be said in the proto (a NaN, a set, half a surrogate
pair) raises ``InvalidArgument`` with the field; whether a value is acceptable otherwise is the server's to say.
"""

from __future__ import annotations

import array
import datetime
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from shortlist import _collection_types as collections
from shortlist import _document_types as documents
from shortlist._errors import InvalidArgument, InvalidVector
from shortlist._metadata import checked_integer, checked_text, struct_from_mapping, struct_to_dict
from shortlist.v1 import collection_pb2, document_pb2, search_pb2

_NOT_FLAT = "must be a flat sequence of numbers"


def fill_document(proto: document_pb2.Document, document: documents.Document | Mapping[str, Any]) -> None:
    """Fills an empty message; a mapping has the names of ``Document``'s attributes as keys."""
    if isinstance(document, Mapping):
        unknown = document.keys() - {"id", "title", "text", "metadata", "vector"}
        if unknown:
            names = ", ".join(sorted(map(str, unknown)))
            raise InvalidArgument(f"unknown keys in a document: {names}; put them under metadata", field="document")
        if "id" not in document:
            raise InvalidArgument("a document needs an id", field="document.id")
        document = documents.Document(**document)
    proto.id = checked_text(document.id, "document.id")
    proto.title = checked_text(document.title, "document.title")
    proto.text = checked_text(document.text, "document.text")
    if document.metadata:
        struct_from_mapping(document.metadata, proto.metadata)
    if document.vector is not None:
        proto.vector_f32 = vector_bytes(document.vector, "document.vector")


def vector_bytes(vector: documents.Vector, field: str) -> bytes:
    """The vector as little-endian float32. The server checks its values: NaN, zero, a wrong dimension.

    Args:
        vector: shape (dimension,). An array of numpy's is written by numpy; anything else is a sequence of numbers, or
            has ``tolist`` (torch).
        field: what an error names.

    Raises:
        InvalidVector: it is empty, or no flat sequence of numbers in the range of float32.
    """
    # Bytes would pass as a sequence of small integers, and a matrix as one long vector.
    if isinstance(vector, bytes | bytearray) or getattr(vector, "ndim", 1) != 1:
        raise InvalidVector(_NOT_FLAT, field=field)
    try:
        if hasattr(vector, "astype") and hasattr(vector, "tobytes"):
            data: bytes = vector.astype("<f4").tobytes()
        else:
            numbers = tuple(vector.tolist() if hasattr(vector, "tolist") else vector)
            data = struct.pack(f"<{len(numbers)}f", *numbers)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise InvalidVector(_NOT_FLAT, field=field) from error
    if not data:
        # To the server, no bytes mean no vector: it would embed the text instead.
        raise InvalidVector("is empty", field=field)
    return data


def vector_from_bytes(data: bytes) -> tuple[float, ...]:
    """The values of a little-endian float32 vector."""
    return struct.unpack(f"<{len(data) // 4}f", data)


def checked_vector(vector: documents.Vector, field: str) -> Sequence[float]:
    """The vector, if it is one of finite numbers; anything with ``tolist`` (numpy, torch) will do."""
    values = vector.tolist() if hasattr(vector, "tolist") else vector
    try:
        numbers = array.array("d", values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidVector(_NOT_FLAT, field=field) from error
    if not numbers:
        raise InvalidVector("is empty", field=field)
    if not all(map(math.isfinite, numbers)):
        raise InvalidVector("holds NaN or infinity", field=field)
    return numbers


def document(proto: document_pb2.Document) -> documents.Document:
    """A document as a client sent it, from the wire."""
    return documents.Document(
        id=proto.id,
        title=proto.title,
        text=proto.text,
        metadata=struct_to_dict(proto.metadata),
        vector=vector_from_bytes(proto.vector_f32) or tuple(proto.vector) or None,
    )


def stored_document(proto: document_pb2.StoredDocument) -> documents.StoredDocument:
    """A stored document from the wire."""
    return documents.StoredDocument(
        id=proto.document.id,
        title=proto.document.title,
        text=proto.document.text,
        metadata=struct_to_dict(proto.document.metadata),
        sequence=proto.sequence,
        passage_count=proto.passage_count,
        passages=tuple(map(passage, proto.passages)),
    )


def passage(proto: document_pb2.Passage) -> documents.Passage:
    """A passage from the wire."""
    return documents.Passage(
        ordinal=proto.ordinal,
        start=proto.start,
        end=proto.end,
        text=proto.text,
        tokens=proto.tokens,
        vector=tuple(proto.vector) or None,
    )


def include_to_proto(include: documents.Include | None) -> document_pb2.Include | None:
    """What to return of each document; None for the server's defaults."""
    if include is None:
        return None
    return document_pb2.Include(
        text=include.text, metadata=include.metadata, passages=include.passages, vectors=include.vectors
    )


def choice_to_proto(enum: Any, prefix: str, name: str | None, field: str) -> Any:
    """The value of a proto enum by its short name in lower case; 0 for None."""
    if name is None:
        return 0
    try:
        number = enum.Value(f"{prefix}_{str(name).upper()}")
    except ValueError:
        number = 0
    if number == 0:
        _refuse_choice(enum, prefix, name, field)
    return number


def _refuse_choice(enum: Any, prefix: str, name: str, field: str) -> NoReturn:
    names = (name for name, number in enum.items() if number != 0)
    known = ", ".join(name.removeprefix(f"{prefix}_").lower() for name in names)
    raise InvalidArgument(f"must be one of {known}, not {name!r}", field=field)


def choice_from_proto(enum: Any, prefix: str, number: int) -> str | None:
    """The short name of an enum value in lower case; None for 0, the number for one this release does not know."""
    if number == 0:
        return None
    try:
        return str(enum.Name(number)).removeprefix(f"{prefix}_").lower()
    except ValueError:
        return str(number)


def _choice(enum: Any, prefix: str, number: int) -> Any:
    # The types list the choices of this release; a newer server's passes through as it is.
    return choice_from_proto(enum, prefix, number)


def candidates_to_proto(candidates: collections.Candidates) -> search_pb2.Candidates:
    """Candidates for the wire."""
    return search_pb2.Candidates(
        dense=checked_integer(candidates.dense, "candidates.dense"),
        lexical=checked_integer(candidates.lexical, "candidates.lexical"),
        ef=checked_integer(candidates.ef, "candidates.ef"),
        exact=candidates.exact,
    )


def fusion_to_proto(fusion: collections.Fusion) -> search_pb2.Fusion:
    """Fusion for the wire."""
    return search_pb2.Fusion(
        method=choice_to_proto(search_pb2.FusionMethod, "FUSION_METHOD", fusion.method, "fusion.method"),
        dense_weight=fusion.dense_weight,
        rrf_k=checked_integer(fusion.rrf_k, "fusion.rrf_k"),
    )


def rerank_to_proto(rerank: collections.Rerank) -> search_pb2.Rerank:
    """Rerank settings for the wire."""
    if isinstance(rerank.stages, collections.RerankStage):
        raise InvalidArgument("takes several stages, not one alone", field="rerank.stages")
    return search_pb2.Rerank(
        enabled=rerank.enabled,
        model=checked_text(rerank.model or "", "rerank.model"),
        depth=checked_integer(rerank.depth, "rerank.depth"),
        weight=rerank.weight,
        instruction=checked_text(rerank.instruction or "", "rerank.instruction"),
        on_failure=choice_to_proto(
            search_pb2.RerankFailurePolicy, "RERANK_FAILURE_POLICY", rerank.on_failure, "rerank.on_failure"
        ),
        deadline_share=rerank.deadline_share,
        stages=[_stage_to_proto(stage, f"rerank.stages[{place}]") for place, stage in enumerate(rerank.stages)],
    )


def _stage_to_proto(stage: collections.RerankStage, field: str) -> search_pb2.RerankStage:
    return search_pb2.RerankStage(
        model=checked_text(stage.model or "", f"{field}.model"),
        depth=checked_integer(stage.depth, f"{field}.depth"),
        weight=stage.weight,
        instruction=checked_text(stage.instruction or "", f"{field}.instruction"),
        deadline_share=stage.deadline_share,
    )


def mode_to_proto(mode: str | None) -> Any:
    """The retrieval mode for the wire."""
    return choice_to_proto(search_pb2.RetrievalMode, "RETRIEVAL_MODE", mode, "mode")


def search_defaults_to_proto(defaults: collections.SearchDefaults) -> collection_pb2.SearchDefaults:
    """A collection's search settings for the wire."""
    return collection_pb2.SearchDefaults(
        mode=mode_to_proto(defaults.mode),
        candidates=candidates_to_proto(defaults.candidates),
        fusion=fusion_to_proto(defaults.fusion),
        rerank=rerank_to_proto(defaults.rerank),
        recall_target=defaults.recall_target,
    )


def chunking_to_proto(chunking: collections.Chunking, field: str) -> collection_pb2.Chunking:
    """The size of passages for the wire; ``field`` is what errors name."""
    return collection_pb2.Chunking(
        max_tokens=checked_integer(chunking.max_tokens, f"{field}.max_tokens"),
        overlap_tokens=checked_integer(chunking.overlap_tokens, f"{field}.overlap_tokens"),
    )


def chunking_from_proto(proto: collection_pb2.Chunking) -> collections.Chunking:
    """The size of passages from the wire."""
    return collections.Chunking(max_tokens=proto.max_tokens, overlap_tokens=optional(proto, "overlap_tokens"))


def config_to_proto(config: collections.CollectionConfig) -> collection_pb2.CollectionConfig:
    """A collection's settings for the wire."""
    if isinstance(config.filterable_fields, str):
        # A string is an iterable of strings too; nobody means to index its letters.
        raise InvalidArgument("takes several names, not one string", field="config.filterable_fields")
    return collection_pb2.CollectionConfig(
        embedder=checked_text(config.embedder or "", "config.embedder"),
        dimension=checked_integer(config.dimension, "config.dimension"),
        reranker=checked_text(config.reranker or "", "config.reranker"),
        chunking=chunking_to_proto(config.chunking, "config.chunking"),
        overflow=choice_to_proto(collection_pb2.OverflowPolicy, "OVERFLOW_POLICY", config.overflow, "config.overflow"),
        filterable_fields=[checked_text(name, "config.filterable_fields") for name in config.filterable_fields],
        search_defaults=search_defaults_to_proto(config.search_defaults),
        query_instruction=checked_text(config.query_instruction or "", "config.query_instruction"),
    )


def collection(proto: collection_pb2.Collection) -> collections.Collection:
    """A collection from the wire."""
    return collections.Collection(
        name=proto.name,
        config=_config(proto.config),
        create_time=proto.create_time.ToDatetime(datetime.UTC),
        sequence=proto.sequence,
        document_count=proto.document_count,
        passage_count=proto.passage_count,
        segment_passage_count=proto.segment_passage_count,
        segment_count=proto.segment_count,
        disk_bytes=proto.disk_bytes,
        embedder_revision=proto.embedder_revision,
        effective_search_defaults=_search_defaults(proto.effective_search_defaults),
        etag=proto.etag,
        problem=proto.problem,
        generation=proto.generation,
        notice=proto.notice,
    )


def _config(proto: collection_pb2.CollectionConfig) -> collections.CollectionConfig:
    return collections.CollectionConfig(
        embedder=proto.embedder,
        dimension=proto.dimension,
        reranker=proto.reranker,
        chunking=chunking_from_proto(proto.chunking),
        overflow=_choice(collection_pb2.OverflowPolicy, "OVERFLOW_POLICY", proto.overflow),
        filterable_fields=tuple(proto.filterable_fields),
        search_defaults=_search_defaults(proto.search_defaults),
        query_instruction=proto.query_instruction,
    )


def _search_defaults(proto: collection_pb2.SearchDefaults) -> collections.SearchDefaults:
    candidates, fusion, rerank = proto.candidates, proto.fusion, proto.rerank
    return collections.SearchDefaults(
        mode=_choice(search_pb2.RetrievalMode, "RETRIEVAL_MODE", proto.mode),
        candidates=collections.Candidates(
            **{name: optional(candidates, name) for name in ("dense", "lexical", "ef", "exact")}
        ),
        fusion=collections.Fusion(
            method=_choice(search_pb2.FusionMethod, "FUSION_METHOD", fusion.method),
            dense_weight=optional(fusion, "dense_weight"),
            rrf_k=optional(fusion, "rrf_k"),
        ),
        rerank=collections.Rerank(
            enabled=optional(rerank, "enabled"),
            model=rerank.model,
            depth=optional(rerank, "depth"),
            weight=optional(rerank, "weight"),
            instruction=rerank.instruction,
            on_failure=_choice(search_pb2.RerankFailurePolicy, "RERANK_FAILURE_POLICY", rerank.on_failure),
            deadline_share=optional(rerank, "deadline_share"),
            stages=tuple(map(_stage, rerank.stages)),
        ),
        recall_target=optional(proto, "recall_target"),
    )


def _stage(proto: search_pb2.RerankStage) -> collections.RerankStage:
    return collections.RerankStage(
        model=proto.model,
        depth=optional(proto, "depth"),
        weight=optional(proto, "weight"),
        instruction=proto.instruction,
        deadline_share=optional(proto, "deadline_share"),
    )


def optional(proto: Any, name: str) -> Any:
    """The field's value, or None where it is not set."""
    return getattr(proto, name) if proto.HasField(name) else None
