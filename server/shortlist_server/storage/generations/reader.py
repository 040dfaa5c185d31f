"""Reads one generation for a search, from the search's beginning to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from shortlist_server.domain import CollectionConfig, DenseCandidates, Include, StoredDocument, StoredPassage, Vector
from shortlist_server.errors import Unavailable, UnsupportedByCollection
from shortlist_server.storage.base import Selection
from shortlist_server.storage.generations.generation import OpenGeneration
from shortlist_server.storage.rows.documents import documents_by_key, passages_by_id
from shortlist_server.storage.rows.reader import ReaderPool
from shortlist_server.storage.rows.settings import RaisedEf
from shortlist_server.storage.vectors import search as dense
from shortlist_server.storage.vectors.selection import KeySelection


class EmbeddedGeneration:
    """A ``GenerationReader`` over an open collection. Any thread may call any method."""

    def __init__(
        self,
        generation: OpenGeneration,
        config: CollectionConfig,
        raised_ef: RaisedEf,
        pool: ReaderPool,
        threads: ThreadPoolExecutor,
        *,
        complete: bool,
    ) -> None:
        self._generation = generation
        self._config = config
        self._raised_ef = raised_ef
        self._pool = pool
        self._threads = threads
        self._complete = complete
        self._released = False

    def release(self) -> None:
        """Ends the reading: from now on every read raises ``Unavailable``."""
        self._released = True
        self._generation.end()

    @property
    def number(self) -> int:
        """The generation's number."""
        return self._generation.number

    @property
    def config(self) -> CollectionConfig:
        """The collection's settings, with what belongs to this generation."""
        return self._config

    @property
    def complete(self) -> bool:
        """Whether the generation lacked no document when the reading began."""
        return self._complete

    def ef(self, *, filtered: bool) -> int:
        """The ``ef`` of dense searches that name none; see ``GenerationReader.ef``."""
        return max(self._config.search_defaults.ef or dense.DEFAULT_EF, self._raised_ef[filtered])

    def dense(
        self,
        vector: Vector,
        documents: int,
        selection: Selection | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
    ) -> DenseCandidates:
        """The passages nearest to ``vector``; see ``GenerationReader.dense``."""
        assert selection is None or isinstance(selection, KeySelection)
        self._check()
        return dense.search(
            self._generation.index.snapshot,
            self._checked(vector),
            documents,
            selection,
            ef=ef or self.ef(filtered=selection is not None),
            exact=exact,
            pool=self._threads,
        )

    def dense_scores(self, vector: Vector, keys: Sequence[int]) -> DenseCandidates:
        """All live passages of these documents with their exact cosine, best first."""
        self._check()
        return dense.score_documents(self._generation.index.snapshot, self._checked(vector), keys)

    def passages(
        self, passage_ids: Sequence[int], *, vectors: bool = False, token_vectors: bool = False
    ) -> Mapping[int, StoredPassage]:
        """The passages with these passage ids that still exist, by passage id."""
        self._check()
        with self._pool.connection() as connection:
            return passages_by_id(
                connection, self._generation.tables, passage_ids, vectors=vectors, token_vectors=token_vectors
            )

    def documents(self, keys: Sequence[int], include: Include) -> Mapping[int, StoredDocument]:
        """The documents with these keys that still exist, by key, with the parts asked for."""
        self._check()
        with self._pool.connection() as connection:
            return documents_by_key(connection, self._generation.tables, keys, include)

    def _check(self) -> None:
        if self._released or self._pool.closed:
            raise Unavailable(f"collection '{self._generation.place.name}' is closed")
        if self._generation.gone:
            raise Unavailable(f"generation {self.number} was dropped long ago; search again")

    def _checked(self, vector: Vector) -> Vector:
        dimension = self._generation.place.dimension
        if vector.shape != (dimension,):
            raise UnsupportedByCollection(
                f"the vectors of collection '{self._generation.place.name}' have {dimension} dimensions; the query's"
                f" shape is {vector.shape}",
                metadata={"collection": self._generation.place.name, "dimension": str(dimension)},
            )
        return np.ascontiguousarray(vector, dtype=np.float32)
