"""Creating collections: checks a request's settings against the models and adds the server's defaults.

Blocking; any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

from shortlist_server.domain import NO_MODEL, Chunking, CollectionConfig, OverflowPolicy, SearchDefaults
from shortlist_server.errors import InvalidArgument
from shortlist_server.inference.base import EmbedderInfo, ModelCatalog
from shortlist_server.storage.base import CollectionStore, Store

MIN_PASSAGE_TOKENS = 16
MAX_DIMENSION = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCollection:
    """What a client asks for; "", 0 and None mean "the default"."""

    name: str
    embedder: str = ""
    dimension: int = 0
    reranker: str = ""
    max_tokens: int = 0
    overlap_tokens: int | None = None
    overflow: OverflowPolicy = OverflowPolicy.CHUNK
    filterable_fields: tuple[str, ...] = ()
    query_instruction: str = ""
    search_defaults: SearchDefaults = SearchDefaults()


def create_collection(store: Store, models: ModelCatalog, new: NewCollection) -> CollectionStore:
    """Creates a collection, durably.

    Raises:
        InvalidArgument: a setting is out of range or does not fit the models.
        ModelNotFound: the server has no such embedder or reranker.
        CollectionExists: a collection has that name already.
    """
    return store.create(new.name, _completed(models, new))


def check_search_defaults(models: ModelCatalog, config: CollectionConfig, defaults: SearchDefaults) -> None:
    """Raises ``ModelNotFound`` or ``InvalidArgument`` unless a collection with this config can have these defaults."""
    named = [(defaults.reranker, "search_defaults.rerank.model")] if defaults.reranker else []
    for place, stage in enumerate(defaults.rerank_stages or ()):
        field = f"search_defaults.rerank.stages[{place}].model"
        if (stage.model or config.reranker) == NO_MODEL:
            raise InvalidArgument("the collection has no reranker: name one for the stage", field=field)
        named.append((stage.model or config.reranker, field))
    if named:
        info = None if config.embedder == NO_MODEL else models.embedder(config.embedder).info
        for name, field in named:
            _check_reranker(models, name, info, field)


def _completed(models: ModelCatalog, new: NewCollection) -> CollectionConfig:
    name = new.embedder or models.default_embedder
    info = None if name == NO_MODEL else models.embedder(name).info
    reranker = new.reranker or models.default_reranker
    if new.reranker:
        _check_reranker(models, reranker, info, "config.reranker")
    elif reranker != NO_MODEL and models.reranker(reranker).info.uses_token_vectors and not _token_vectors(info):
        reranker = NO_MODEL
    config = CollectionConfig(
        embedder=name,
        embedder_revision="" if info is None else info.revision,
        dimension=_dimension(new.dimension, info),
        reranker=reranker,
        chunking=_chunking(new, info),
        overflow=new.overflow,
        filterable_fields=new.filterable_fields,
        query_instruction=new.query_instruction,
        search_defaults=new.search_defaults,
    )
    if new.query_instruction and info is not None and not info.takes_instruction:
        raise InvalidArgument(
            f"embedder '{name}' takes no instruction: leave it empty", field="config.query_instruction"
        )
    check_search_defaults(models, config, new.search_defaults)
    return config


def _token_vectors(info: EmbedderInfo | None) -> bool:
    return info is not None and info.token_vectors


def _check_reranker(models: ModelCatalog, name: str, embedder: EmbedderInfo | None, field: str) -> None:
    if name != NO_MODEL and models.reranker(name).info.uses_token_vectors and not _token_vectors(embedder):
        raise InvalidArgument(
            f"reranker '{name}' needs an embedder with token vectors: name another reranker, or none", field=field
        )


def _dimension(asked: int, info: EmbedderInfo | None) -> int:
    if info is not None:
        return checked_dimension(asked, info, "config.dimension")
    if not asked:
        raise InvalidArgument("a collection without an embedder needs a dimension: give one", field="config.dimension")
    return _within(asked, 1, MAX_DIMENSION, "config.dimension")


def checked_dimension(asked: int, info: EmbedderInfo, field: str) -> int:
    """The dimension for vectors of an embedder; 0 asks for its own. Raises ``InvalidArgument``."""
    return _within(asked or info.dimension, info.min_dimension, info.dimension, field)


def _within(asked: int, low: int, high: int, field: str) -> int:
    if not low <= asked <= high:
        allowed = str(low) if low == high else f"{low} to {high}"
        raise InvalidArgument(f"dimension is {asked}, but must be {allowed}", field=field)
    return asked


def _chunking(new: NewCollection, info: EmbedderInfo | None) -> Chunking:
    if info is None:
        if new.max_tokens or new.overlap_tokens:
            raise InvalidArgument(
                "without an embedder no document is cut: leave chunking empty", field="config.chunking"
            )
        return Chunking(max_tokens=0, overlap_tokens=0)
    return checked_chunking(new.max_tokens, new.overlap_tokens, info, "config.chunking")


def checked_chunking(max_tokens: int, overlap_tokens: int | None, info: EmbedderInfo, field: str) -> Chunking:
    """The chunking for an embedder; 0 and None ask for its defaults. Raises ``InvalidArgument``."""
    size = max_tokens or info.default_chunking.max_tokens
    if not MIN_PASSAGE_TOKENS <= size <= info.max_tokens:
        raise InvalidArgument(
            f"max_tokens is {size}, but must be {MIN_PASSAGE_TOKENS} to {info.max_tokens}", field=f"{field}.max_tokens"
        )
    overlap = overlap_tokens
    if overlap is None:
        overlap = size // 8 if max_tokens else info.default_chunking.overlap_tokens
    if not 0 <= overlap <= size // 2:
        raise InvalidArgument(
            f"overlap_tokens is {overlap}, but must be 0 to {size // 2}", field=f"{field}.overlap_tokens"
        )
    return Chunking(max_tokens=size, overlap_tokens=overlap)
