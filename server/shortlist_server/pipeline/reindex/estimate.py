"""Estimates from a sample what a reindex will need: passages, tokens, time, disk and memory.

Coroutines on the server's event loop; blocking work runs in the composition root's thread pool.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.domain import GenerationConfig, Include, ReindexEstimate, StoredDocument
from shortlist_server.errors import InferenceFailed, ShortlistError
from shortlist_server.inference.base import ModelCatalog, PassageEmbedding, PassageText
from shortlist_server.pipeline.models import find_embedder
from shortlist_server.pipeline.reindex.room import Room
from shortlist_server.pipeline.targets import Work, refuses
from shortlist_server.storage.base import CollectionStore

SAMPLE_PLACES = 32
"""Places, spread evenly over the collection, where documents are read."""

DOCUMENTS_AT_PLACE = 8

SAMPLE_BYTES = 4 * 1024 * 1024
"""Text to read at most; the places come in a random order, so that any part of them is a fair sample."""

RATE_SECONDS = 2.0
"""About how long the model's speed is measured."""

_FIRST_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """How large things are in the store. ``segments``: whether there are enough passages for segments.

    Attributes:
        disk_bytes: of so many passages, with this dimension, and token vectors of these sizes for example.
        memory_bytes: of so many passages with this dimension.
        flushed_from: passages from which on there are segments.
    """

    disk_bytes: Callable[[int, int, Sequence[int], bool], int]
    memory_bytes: Callable[[int, int, bool], int]
    flushed_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speed:
    tokens_per_second: float
    token_vectors: Sequence[int]


class Estimator:
    """Estimates reindexes of the collections in one data folder."""

    def __init__(
        self,
        models: ModelCatalog,
        threads: Executor,
        footprint: Footprint,
        room: Room,
        *,
        max_document_tokens: int,
    ) -> None:
        self._models = models
        self._threads = threads
        self._footprint = footprint
        self._room = room
        self._max_document_tokens = max_document_tokens

    async def estimate(self, collection: CollectionStore, config: GenerationConfig) -> ReindexEstimate:
        """Estimates what a generation with these settings will need. Reads and embeds for a few seconds.

        Raises:
            ShortlistError: the model is not loaded, or fails.
        """
        embedder = find_embedder(collection.name, config, self._models)
        work = Work(embedder, config.chunking, collection.config.overflow)
        sample, cut = await asyncio.get_running_loop().run_in_executor(self._threads, self._sample, collection, work)
        speed = await _measure(work, cut, config.dimension)
        documents = collection.count(None) if sample else 0
        share = documents / sample if sample else 0.0
        passages = round(share * len(cut))
        tokens = round(share * sum(passage.tokens for passage in cut))
        segments = passages >= self._footprint.flushed_from
        return ReindexEstimate(
            document_count=documents,
            passage_count=passages,
            token_count=tokens,
            duration_seconds=tokens / speed.tokens_per_second if speed.tokens_per_second else 0.0,
            disk_bytes=self._footprint.disk_bytes(passages, config.dimension, speed.token_vectors, segments),
            free_disk_bytes=self._room.free_bytes(),
            memory_bytes=self._footprint.memory_bytes(passages, config.dimension, segments),
            free_memory_bytes=free_memory_bytes(),
            sampled_documents=sample,
        )

    def _sample(self, collection: CollectionStore, work: Work) -> tuple[int, list[PassageText]]:
        """How many documents were sampled, and their passages; a document that is refused has none. Blocking."""
        passages: list[PassageText] = []
        documents = sample(collection)
        for document in documents:
            try:
                passages += work.cut(document.title, document.text, self._max_document_tokens).passages
            except ShortlistError as error:
                if not refuses(error):
                    raise
        return len(documents), passages


def sample(collection: CollectionStore) -> Sequence[StoredDocument]:
    """Documents from all over the collection: all of a small one. Blocking.

    Sequences grow with each write and are not dense, so a document that follows many deleted ones is more likely to
    be read. Several documents at each place make this bias small.
    """
    last, found, size = collection.sequence, {}, 0
    places = SAMPLE_PLACES if collection.count(None) > SAMPLE_PLACES * DOCUMENTS_AT_PLACE else 1
    at_place = DOCUMENTS_AT_PLACE if places > 1 else SAMPLE_PLACES * DOCUMENTS_AT_PLACE
    order = list(range(places))
    random.Random(last).shuffle(order)  # noqa: S311
    for place in order:
        documents, _ = collection.page(None, last * place // places, at_place, Include(metadata=False))
        found.update({document.key: document for document in documents})
        size += sum(len(document.text) + len(document.title) for document in documents)
        if size > SAMPLE_BYTES:
            break
    return list(found.values())


async def _measure(work: Work, passages: Sequence[PassageText], dimension: int) -> _Speed:
    """Embeds some of the passages, more each time, until the time is up; the last and largest part counts."""
    speed, at, tokens = _Speed(tokens_per_second=0.0, token_vectors=()), 0, _FIRST_TOKENS
    sizes: list[int] = []
    until = time.monotonic() + RATE_SECONDS
    while at < len(passages) and (at == 0 or time.monotonic() < until):
        part: list[PassageText] = []
        while at < len(passages) and sum(passage.tokens for passage in part) < tokens:
            part.append(passages[at])
            at += 1
        began = time.monotonic()
        embedded = await work.embedder.embed_passages(
            part, dimension=dimension, token_vectors=work.embedder.info.token_vectors, background=True
        )
        seconds = max(time.monotonic() - began, 1e-6)
        good = [one for one in embedded if isinstance(one, PassageEmbedding)]
        if not good:
            error = next(one for one in embedded if isinstance(one, Exception))
            raise error if isinstance(error, ShortlistError) else InferenceFailed(f"the model failed: {error}")
        sizes += [len(one.token_vectors) for one in good if one.token_vectors is not None]
        speed = _Speed(tokens_per_second=sum(passage.tokens for passage in part) / seconds, token_vectors=sizes)
        tokens *= 2
    return speed


def free_memory_bytes() -> int:
    """Memory that processes can still take; 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
