"""Reads of the generation that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shortlist_server.domain import DenseCandidates, Include, StoredDocument, Vector
from shortlist_server.storage.base import Selection
from shortlist_server.storage.collection import EmbeddedCollection


def search_dense(
    collection: EmbeddedCollection,
    vector: Vector,
    documents: int,
    selection: Selection | None = None,
    *,
    ef: int | None = None,
    exact: bool = False,
) -> DenseCandidates:
    """A dense search of the serving generation."""
    with collection.read_generation() as serving:
        return serving.dense(vector, documents, selection, ef=ef, exact=exact)


def read_documents(
    collection: EmbeddedCollection, keys: Sequence[int], include: Include
) -> Mapping[int, StoredDocument]:
    """Documents with their passages in the serving generation."""
    with collection.read_generation() as serving:
        return serving.documents(keys, include)
