"""The parts of a store that a search reads: a generation, the documents that pass a filter, and leases.

Part of ``base``, from which the other rooms import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from shortlist_server.domain import CollectionConfig, DenseCandidates, Include, StoredDocument, StoredPassage, Vector


class Selection(Protocol):
    """The documents that pass a filter, at one sequence. Immutable."""

    @property
    def matches(self) -> int:
        """Number of documents that pass the filter."""


C_co = TypeVar("C_co", covariant=True)


class Lease(Generic[C_co]):
    """Keeps a collection, or a generation of it, open until ``release`` is called or the ``with`` block ends.

    Attributes:
        collection: what is leased.
    """

    def __init__(self, collection: C_co, release: Callable[[], None]) -> None:
        """``release`` is called at most once."""
        self.collection = collection
        self._release: Callable[[], None] | None = release

    def __enter__(self) -> C_co:
        return self.collection

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets the store close the collection again. Never blocks. Idempotent; one thread at a time."""
        release, self._release = self._release, None
        if release is not None:
            release()


class GenerationReader(Protocol):
    """One generation of a collection, as a search reads it from its beginning to its end.

    It stays the same generation whatever is switched meanwhile. Every method may raise ``Unavailable`` after the lease
    that gave it was released.
    """

    @property
    def number(self) -> int:
        """The generation's number."""

    @property
    def config(self) -> CollectionConfig:
        """The collection's settings, with what belongs to this generation: see ``GenerationConfig``."""

    @property
    def complete(self) -> bool:
        """Whether the generation lacked no document when the reading began."""

    def ef(self, *, filtered: bool) -> int:
        """The ``ef`` of dense searches that name none: the preset or the store's default, raised by ``raise_ef``."""

    def dense(
        self,
        vector: Vector,
        documents: int,
        selection: Selection | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
    ) -> DenseCandidates:
        """The passages nearest to ``vector`` by cosine, enough to cover ``documents`` distinct documents.

        They cover fewer only if fewer are live (or selected). With ``exact``, every vector is scored. If ``ef`` is
        None, the method ``ef`` gives it.

        Raises:
            UnsupportedByCollection: ``vector`` does not have the generation's dimension.
        """

    def dense_scores(self, vector: Vector, keys: Sequence[int]) -> DenseCandidates:
        """All live passages of these documents with their exact cosine, best first (strategy EXACT)."""

    def passages(
        self, passage_ids: Sequence[int], *, vectors: bool = False, token_vectors: bool = False
    ) -> Mapping[int, StoredPassage]:
        """The passages with these passage ids that still exist, by passage id."""

    def documents(self, keys: Sequence[int], include: Include) -> Mapping[int, StoredDocument]:
        """The documents with these keys that still exist, by key, with the parts asked for."""
