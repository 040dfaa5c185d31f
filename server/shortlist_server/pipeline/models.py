"""The model that a collection or a generation needs, and the sentence to show where it is not loaded.

Pure functions; any thread.
"""

from __future__ import annotations

from shortlist_server.domain import NO_MODEL, CollectionConfig, GenerationConfig
from shortlist_server.errors import ModelMismatch, ModelNotFound
from shortlist_server.inference.base import EmbedderService, ModelCatalog


def find_embedder(
    collection: str, config: CollectionConfig | GenerationConfig, models: ModelCatalog
) -> EmbedderService:
    """The embedder that made the vectors; not for a config without one.

    Raises:
        ModelNotFound, ModelMismatch: it is not loaded. The message names the collection and the remedy.
    """
    try:
        return models.embedder(config.embedder, config.embedder_revision)
    except (ModelNotFound, ModelMismatch) as error:
        raise type(error)(f"collection '{collection}': {error.message}", metadata=error.metadata) from error


def notice(config: CollectionConfig, models: ModelCatalog) -> str:
    """A sentence for the operator if the model of the serving generation needs attention; else "".

    Either the model is not loaded, or another revision of it, the current one, is loaded beside it.
    """
    if config.embedder == NO_MODEL:
        return ""
    try:
        serving = models.embedder(config.embedder, config.embedder_revision).info
    except (ModelNotFound, ModelMismatch) as error:
        return f"searches are lexical only, and writes are refused: {error.message}"
    current = models.embedder(config.embedder).info
    if current.revision == serving.revision:
        return ""
    return (
        f"it serves revision {serving.revision[:12]} of embedder '{serving.name}', and revision"
        f" {current.revision[:12]} is loaded too: 'shortlist reindex' brings the collection up to it"
    )
