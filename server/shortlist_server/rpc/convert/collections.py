"""Collections and their settings."""

from __future__ import annotations

from hashlib import blake2b

from google.protobuf import timestamp_pb2
from google.protobuf.message import Message

from shortlist.v1 import collection_pb2 as pb
from shortlist.v1 import collection_service_pb2 as service_pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument
from shortlist_server.inference.base import ModelCatalog
from shortlist_server.pipeline.collections import NewCollection
from shortlist_server.pipeline.models import notice
from shortlist_server.pipeline.plan import effective_defaults
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.filters import path_in
from shortlist_server.rpc.convert.settings import enum_in, settings_in, settings_out

WHOLE = "search_defaults"
"""The field of a collection's settings that can change."""


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
        config=_config_out(config),
        create_time=created,
        sequence=info.sequence,
        document_count=info.document_count,
        passage_count=info.passage_count,
        segment_passage_count=info.segment_passage_count,
        segment_count=info.segment_count,
        disk_bytes=info.disk_bytes,
        embedder_revision=config.embedder_revision,
        effective_search_defaults=settings_out(effective_defaults(config, models)),
        etag=etag_of(config),
        generation=info.generation,
        notice=notice(config, models),
    )


def etag_of(config: domain.CollectionConfig) -> str:
    """Identifies the settings of a collection."""
    return blake2b(_config_out(config).SerializeToString(deterministic=True), digest_size=8).hexdigest()


def updated_defaults_in(
    request: service_pb.UpdateCollectionRequest, stored: domain.SearchDefaults, config: Config
) -> domain.SearchDefaults:
    """The search defaults of a collection after an update of those that are stored.

    Raises:
        InvalidArgument: a setting is out of its range, or the mask names a field that there is not.
    """
    updated = service_pb.UpdateCollectionRequest(search_defaults=settings_out(stored))
    paths = list(request.update_mask.paths)
    for i, path in enumerate([WHOLE] if paths in ([], ["*"]) else paths):
        if path.partition(".")[0] != WHOLE:
            raise InvalidArgument(f"only fields of '{WHOLE}' can change", field=f"update_mask.paths[{i}]")
        _copy_field(request, updated, path, f"update_mask.paths[{i}]")
    return settings_in(updated.search_defaults, f"{WHOLE}.", config)


def _copy_field(source: Message, target: Message, path: str, at: str) -> None:
    """Sets the field that a path names as it is in ``source``, or clears it where it is not set there."""
    *parents, name = path.split(".")
    for parent in parents:
        field = source.DESCRIPTOR.fields_by_name.get(parent)
        if field is None or field.message_type is None or not field.has_presence:
            raise InvalidArgument("there is no such field", field=at)
        source, target = getattr(source, parent), getattr(target, parent)
    field = source.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise InvalidArgument("there is no such field", field=at)
    target.ClearField(name)
    if field.has_presence and not source.HasField(name):
        return
    if field.message_type is not None and not field.has_presence:
        # A list of messages.
        getattr(target, name).MergeFrom(getattr(source, name))
    elif field.message_type is not None:
        getattr(target, name).CopyFrom(getattr(source, name))
    else:
        setattr(target, name, getattr(source, name))


def _config_out(config: domain.CollectionConfig) -> pb.CollectionConfig:
    return pb.CollectionConfig(
        embedder=config.embedder,
        dimension=config.dimension,
        reranker=config.reranker,
        chunking=pb.Chunking(max_tokens=config.chunking.max_tokens, overlap_tokens=config.chunking.overlap_tokens),
        overflow=pb.OverflowPolicy.Value(f"OVERFLOW_POLICY_{config.overflow.name}"),
        filterable_fields=config.filterable_fields,
        search_defaults=settings_out(config.search_defaults),
        query_instruction=config.query_instruction,
    )
