"""The settings of a new generation, from what a caller asks for. Pure functions; any thread."""

from __future__ import annotations

from shortlist_server.domain import NO_MODEL, Chunking, CollectionConfig, GenerationConfig, NewGeneration
from shortlist_server.errors import InvalidArgument
from shortlist_server.inference.base import EmbedderInfo, ModelCatalog
from shortlist_server.pipeline.collections import checked_chunking, checked_dimension
from shortlist_server.storage.base import CollectionStore


def generation_config(
    collection: CollectionStore, models: ModelCatalog, new: NewGeneration, *, force: bool = False
) -> GenerationConfig:
    """The settings with every default filled in. The embedder is the current one of its name.

    Args:
        force: accept the settings of the serving generation.

    Raises:
        ModelNotFound: no embedder of that name is loaded.
        InvalidArgument: a setting is out of range, does not fit the embedder, or nothing would change.
    """
    config = collection.config
    name = new.embedder or config.embedder
    if name == NO_MODEL:
        raise InvalidArgument(
            "a reindex embeds the documents, and the collection has no embedder: name one", field="embedder"
        )
    info = models.embedder(name).info
    made = GenerationConfig(
        embedder=name,
        embedder_revision=info.revision,
        dimension=_dimension(new, config, info),
        chunking=_chunking(new, config, info),
        query_instruction=_instruction(new, config, info),
        number_format=info.number_format,
    )
    serving = GenerationConfig(
        embedder=config.embedder,
        embedder_revision=config.embedder_revision,
        dimension=config.dimension,
        chunking=config.chunking,
        query_instruction=config.query_instruction,
        number_format=made.number_format,
    )
    if made == serving and not force:
        raise InvalidArgument(
            f"collection '{collection.name}' serves with exactly these settings: name another embedder, dimension or"
            " chunking, or force the start"
        )
    return made


def _dimension(new: NewGeneration, config: CollectionConfig, info: EmbedderInfo) -> int:
    if new.dimension or new.embedder:
        return checked_dimension(new.dimension, info, "dimension")
    # Another revision of the collection's own embedder may have other dimensions.
    fits = info.min_dimension <= config.dimension <= info.dimension
    return config.dimension if fits else info.dimension


def _chunking(new: NewGeneration, config: CollectionConfig, info: EmbedderInfo) -> Chunking:
    if new.max_tokens is None:
        if new.embedder and new.embedder != config.embedder:
            return info.default_chunking
        if config.chunking.max_tokens <= info.max_tokens:
            return config.chunking
    return checked_chunking(new.max_tokens or 0, new.overlap_tokens, info, "chunking")


def _instruction(new: NewGeneration, config: CollectionConfig, info: EmbedderInfo) -> str:
    if new.query_instruction is None:
        own = not new.embedder or new.embedder == config.embedder
        return config.query_instruction if own and info.takes_instruction else ""
    if new.query_instruction and not info.takes_instruction:
        raise InvalidArgument(f"embedder '{info.name}' takes no instruction: leave it empty", field="query_instruction")
    return new.query_instruction
