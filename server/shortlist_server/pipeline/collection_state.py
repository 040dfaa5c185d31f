"""What the metrics page shows of collections, read from the store for each page. Any thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from shortlist_server.domain import CollectionInfo, CollectionRecall, GenerationState
from shortlist_server.errors import ShortlistError
from shortlist_server.observe.generations import CollectionGenerations
from shortlist_server.observe.metrics import CollectionCounts, Maintenance
from shortlist_server.pipeline.recall import RecallMonitor
from shortlist_server.pipeline.reindex.reindexer import Reindexer
from shortlist_server.storage.base import CollectionStore, Store

T = TypeVar("T")

METRIC_COLLECTIONS = 200
"""Most collections with metrics of their own. Each has some 30 series; thousands would burden the scraper."""


class CollectionState:
    """The collections of a store, as the metrics page shows them: the totals, and each of those used last."""

    def __init__(self, store: Store, recall: RecallMonitor, reindexer: Reindexer) -> None:
        self._store = store
        self._recall = recall
        self._reindexer = reindexer

    def counts(self) -> CollectionCounts:
        """How many there are."""
        names, known = self._store.names(), self._store.known()
        return CollectionCounts(
            present=len(names),
            open=sum(collection.is_open for collection in known),
            damaged=sum(bool(collection.problem) for collection in known),
        )

    def infos(self) -> list[CollectionInfo]:
        """Their sizes."""
        return self._each(lambda collection: collection.info())

    def maintenance(self) -> list[Maintenance]:
        """What the builds of their segments did."""
        return self._each(_maintenance)

    def recalls(self) -> list[CollectionRecall]:
        """The recall of their searches."""
        return self._each(self._recall.of)

    def generations(self) -> list[CollectionGenerations]:
        """Their generations, and how far a reindex is."""
        return self._each(self._generations)

    def _generations(self, collection: CollectionStore) -> CollectionGenerations:
        generations = collection.generations()
        building = next((one.number for one in generations if one.state is GenerationState.BUILDING), None)
        return CollectionGenerations(
            collection=collection.name,
            generations=generations,
            reindex=None if building is None else self._reindexer.progress(collection.name, building),
        )

    def _each(self, read: Callable[[CollectionStore], T]) -> list[T]:
        found = []
        for collection in self._store.known()[:METRIC_COLLECTIONS]:
            # A collection that is damaged, or was dropped meanwhile, has no metrics.
            with suppress(ShortlistError):
                collection.info()
                found.append(read(collection))
        return found


def _maintenance(collection: CollectionStore) -> Maintenance:
    stats = collection.stats()
    return Maintenance(
        collection=collection.name,
        flushes=stats.flushes,
        merges=stats.merges,
        build_failures=stats.build_failures,
        waited_seconds=stats.waited_seconds,
    )
