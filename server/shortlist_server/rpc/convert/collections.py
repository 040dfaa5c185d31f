"""Collections and their settings."""

from __future__ import annotations

from google.protobuf import timestamp_pb2

from shortlist.v1 import collection_pb2 as pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.pipeline.collections import NewCollection
from shortlist_server.pipeline.plan import effective_defaults
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.filters import path_in
from shortlist_server.rpc.convert.search import enum_in, settings_in, settings_out


def new_collection_in(name: str, message: pb.CollectionConfig, config: Config) -> NewCollection:
    """What a client asks of a new collection."""
    if len(message.filterable_fields) > fields.MAX_FILTERABLE_FIELDS:
        raise InvalidArgument(
            f"at most {fields.MAX_FILTERABLE_FIELDS} fields can be declared", field="config.filterable_fields"
        )
    for i, path in enumerate(message.filterable_fields):
        path_in(path, f"config.filterable_fields[{i}]")
    chunking = message.chunking
    return NewCollection(
        name=fields.collection_name(name),
        embedder=message.embedder,
        dimension=fields.within(message.dimension, 0, 2**31 - 1, "config.dimension"),
        reranker=message.reranker,
        max_tokens=fields.within(chunking.max_tokens, 0, 2**31 - 1, "config.chunking.max_tokens"),
        overlap_tokens=chunking.overlap_tokens if chunking.HasField("overlap_tokens") else None,
        overflow=enum_in(domain.OverflowPolicy, pb.OverflowPolicy, message.overflow, "config.overflow")
        or domain.OverflowPolicy.CHUNK,
        filterable_fields=tuple(dict.fromkeys(message.filterable_fields)),
        query_instruction=fields.text(
            message.query_instruction, fields.MAX_INSTRUCTION_BYTES, "config.query_instruction"
        ),
        search_defaults=settings_in(message.search_defaults, "config.search_defaults.", config),
    )


def collection_out(info: domain.CollectionInfo, models: ModelCatalog) -> pb.Collection:
    """A collection; ``models`` complete its search defaults."""
    config = info.config
    created = timestamp_pb2.Timestamp()
    created.FromMilliseconds(round(info.create_time_seconds * 1000))
    return pb.Collection(
        name=info.name,
        config=pb.CollectionConfig(
            embedder=config.embedder,
            dimension=config.dimension,
            reranker=config.reranker,
            chunking=pb.Chunking(max_tokens=config.chunking.max_tokens, overlap_tokens=config.chunking.overlap_tokens),
            overflow=pb.OverflowPolicy.Value(f"OVERFLOW_POLICY_{config.overflow.name}"),
            filterable_fields=config.filterable_fields,
            search_defaults=settings_out(config.search_defaults),
            query_instruction=config.query_instruction,
        ),
        create_time=created,
        sequence=info.sequence,
        document_count=info.document_count,
        passage_count=info.passage_count,
        segment_passage_count=info.segment_passage_count,
        segment_count=info.segment_count,
        disk_bytes=info.disk_bytes,
        embedder_revision=config.embedder_revision,
        effective_search_defaults=settings_out(effective_defaults(config, models)),
    )
