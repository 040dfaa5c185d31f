"""What the rest of the server may ask of a store.

Two protocols: a ``Store`` of collections and the ``CollectionStore`` of one. No SQLite or hnswlib type crosses them.
All methods block, unless they say otherwise, and may be called from any thread; reads never wait for writes. Every
method may raise ``DataCorrupted``, ``OutOfSpace``, ``Overloaded`` and, after ``close``, ``Unavailable``.

A store opens collections when they are used and closes them when they are not. A method opens a closed collection by
itself; a ``Lease`` keeps it open from one method to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from shortlist_server.domain import (
    Change,
    CollectionConfig,
    CollectionInfo,
    Commit,
    DeadLetter,
    DenseCandidates,
    Filter,
    Include,
    LexicalCandidates,
    SearchDefaults,
    StoredDocument,
    StoredPassage,
    StreamPosition,
    Vector,
)


class Selection(Protocol):
    """The documents that pass a filter, at one sequence. Immutable."""

    @property
    def matches(self) -> int:
        """Number of documents that pass."""


C_co = TypeVar("C_co", bound="CollectionStore", covariant=True)


class Lease(Generic[C_co]):
    """A collection that stays open until the lease is released, at the end of a ``with`` block or by its method.

    Attributes:
        collection: what is leased.
    """

    def __init__(self, collection: C_co, release: Callable[[], None]) -> None:
        """``release`` is called once."""
        self.collection = collection
        self._release: Callable[[], None] | None = release

    def __enter__(self) -> C_co:
        return self.collection

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """The collection may be closed again. Never blocks. Idempotent; one thread at a time."""
        release, self._release = self._release, None
        if release is not None:
            release()


class CollectionStore(Protocol):
    """One collection. ``name``, ``config``, ``sequence``, ``ef`` and ``info`` never open it."""

    @property
    def name(self) -> str:
        """The collection's name."""

    @property
    def is_open(self) -> bool:
        """Whether it is open now."""

    @property
    def config(self) -> CollectionConfig:
        """What it was made with, with the search defaults as last updated."""

    @property
    def sequence(self) -> int:
        """Sequence of the last commit; every read that starts later sees it."""

    def info(self) -> CollectionInfo:
        """Counts and sizes now. Cheap: no table is scanned.

        Of a collection that was not open since the start, passages that died in segments still count as theirs.
        """

    def commit(
        self,
        changes: Sequence[Change],
        position: StreamPosition | None = None,
        failures: Sequence[DeadLetter] = (),
    ) -> Future[Commit]:
        """Applies changes in order, all or none, and with them the stream position and what could not be taken.

        The future is done when they are synced to disk and searchable. Commits of several callers are grouped into one
        transaction; an error fails only its own caller's changes. With no changes it records the position alone.

        Raises (through the future):
            OutOfSpace: nothing of these changes was written.
        """

    def delete_matching(self, filter: Filter) -> Future[int]:
        """Deletes the documents that pass; the future has their number when that is durable."""

    def stream_position(self, stream: str) -> int:
        """The last position committed for a named stream; 0 for an unknown one."""

    def failures(self, stream: str, first: int, last: int) -> Mapping[int, DeadLetter]:
        """The recorded failures of a stream between two positions, both included, by position."""

    def dead_letters(self, after: int, limit: int) -> tuple[Sequence[DeadLetter], int | None]:
        """Up to ``limit`` recorded failures with a number over ``after``, oldest first, and the next ``after``."""

    def dead_letters_by_number(self, numbers: Sequence[int]) -> Sequence[DeadLetter]:
        """The recorded failures with these numbers that are there, oldest first."""

    def delete_dead_letters(self, numbers: Sequence[int]) -> Future[int]:
        """Forgets failures by number; the future has how many were there."""

    def unchanged(self, hashes: Mapping[str, bytes]) -> Mapping[str, int]:
        """Of documents by id with their content hashes, those stored with an equal hash, with their sequence."""

    def documents_by_id(self, ids: Sequence[str], include: Include) -> Mapping[str, StoredDocument]:
        """The documents with these ids that exist, by id, with the parts asked for."""

    def documents(self, keys: Sequence[int], include: Include) -> Mapping[int, StoredDocument]:
        """The documents with these keys that still exist, by key, with the parts asked for."""

    def page(
        self, filter: Filter | None, after: int, limit: int, include: Include
    ) -> tuple[Sequence[StoredDocument], int | None]:
        """Up to ``limit`` documents that pass with a sequence over ``after``, by sequence, and the next ``after``.

        The latter is None on the last page.
        """

    def count(self, filter: Filter | None) -> int:
        """Number of live documents that pass. Without a filter it is read from a counter."""

    def select(self, filter: Filter) -> Selection:
        """Resolves a filter at the present sequence; cached by filter and sequence."""

    def dense(
        self,
        vector: Vector,
        documents: int,
        selection: Selection | None = None,
        *,
        ef: int | None = None,
        exact: bool = False,
    ) -> DenseCandidates:
        """The passages nearest to ``vector`` by cosine, enough of them to cover ``documents`` distinct documents.

        Covers fewer only when fewer are live (or selected). With ``exact`` every vector is scored. ``ef`` None: that
        of the method ``ef``.

        Raises:
            UnsupportedByCollection: ``vector`` is not of the collection's dimension.
        """

    def lexical(self, text: str, documents: int, selection: Selection | None = None) -> LexicalCandidates:
        """The documents that share words with ``text``, best by BM25 first, at most ``documents``; any text will do."""

    def dense_scores(self, vector: Vector, keys: Sequence[int]) -> DenseCandidates:
        """All live passages of these documents with their exact cosine, best first (strategy EXACT)."""

    def passages(
        self, labels: Sequence[int], *, vectors: bool = False, token_vectors: bool = False
    ) -> Mapping[int, StoredPassage]:
        """The passages with these labels that still exist, by label."""

    def update_search_defaults(self, defaults: SearchDefaults, *, expected: SearchDefaults | None = None) -> bool:
        """Replaces the search defaults, durably; another ``ef`` or ``recall_target`` undoes what ``raise_ef`` did.

        Returns:
            False, with nothing changed, where they are not ``expected``; None expects any.
        """

    def ef(self, *, filtered: bool) -> int:
        """The ``ef`` of dense searches that set none: the larger of the preset (or default) and the raised one."""

    def raise_ef(self, ef: int, *, filtered: bool, under: SearchDefaults) -> None:
        """Raises that ``ef``, durably; the search defaults stay as they are.

        Does nothing if ``ef`` or ``recall_target`` of the search defaults has changed since ``under``, the defaults
        for which recall was measured.
        """


class Store(Protocol):
    """All collections of a server."""

    def create(self, name: str, config: CollectionConfig) -> CollectionStore:
        """Makes a collection, durably.

        Raises:
            CollectionExists: there is one of that name.
            InvalidArgument: the name is not allowed.
        """

    def find(self, name: str) -> CollectionStore:
        """The collection of that name, open or not; the same object each time.

        Raises:
            CollectionNotFound: there is none.
        """

    def lease(self, name: str) -> Lease[CollectionStore]:
        """The collection of that name, opened and kept open.

        Raises:
            CollectionNotFound: there is none.
            DataCorrupted: its database is damaged.
            NewerDataFormat: a newer release wrote it.
            Overloaded: too many others are in use to open it now.
        """

    def try_lease(self, name: str) -> Lease[CollectionStore] | None:
        """The same where the collection is open already, else None. Never blocks."""

    def names(self) -> Sequence[str]:
        """Names of all collections, sorted."""

    def drop(self, name: str) -> None:
        """Removes a collection and its files, durably. Raises ``CollectionNotFound``."""

    def close(self) -> None:
        """Finishes commits under way, checkpoints and closes. Idempotent."""
