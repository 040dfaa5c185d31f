"""Reads of the generation that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shortlist_server.domain import DenseCandidates, Include, StoredDocument, StoredPassage, Vector
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


def score_documents(collection: EmbeddedCollection, vector: Vector, keys: Sequence[int]) -> DenseCandidates:
    """The cosines of documents in the serving generation."""
    with collection.read_generation() as serving:
        return serving.dense_scores(vector, keys)


def read_documents(
    collection: EmbeddedCollection, keys: Sequence[int], include: Include
) -> Mapping[int, StoredDocument]:
    """Documents with their passages in the serving generation."""
    with collection.read_generation() as serving:
        return serving.documents(keys, include)


def read_passages(
    collection: EmbeddedCollection, passage_ids: Sequence[int], *, vectors: bool = False, token_vectors: bool = False
) -> Mapping[int, StoredPassage]:
    """Passages of the serving generation."""
    with collection.read_generation() as serving:
        return serving.passages(passage_ids, vectors=vectors, token_vectors=token_vectors)
