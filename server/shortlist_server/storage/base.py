"""The interface between storage and the rest of the server.

Two protocols: a ``Store`` holds collections, and a ``CollectionStore`` is one of them. No SQLite or hnswlib type
crosses them. All methods block, unless they say otherwise, and may be called from any thread. Reads never wait for
writes. Every method may raise ``DataCorrupted``, ``OutOfSpace``, ``Overloaded`` and, after ``close``, ``Unavailable``.

A store opens a collection on use and closes it when it is idle. A method opens a closed collection by itself; a
``Lease`` keeps the collection open from one method to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from shortlist_server.domain import (
    NEVER,
    BuiltDocument,
    Cancellation,
    Change,
    CollectionConfig,
    CollectionInfo,
    Commit,
    DeadLetter,
    Filter,
    Generation,
    GenerationConfig,
    Include,
    LexicalCandidates,
    SearchDefaults,
    StoredDocument,
    StreamPosition,
)
from shortlist_server.storage.reading import GenerationReader, Lease, Selection
from shortlist_server.storage.reports import Backup, CollectionReport, CollectionStats, Progress

__all__ = ["CollectionStore", "GenerationChanged", "GenerationReader", "Lease", "Selection", "Store"]


class GenerationChanged(Exception):
    """The generation that a change was made for no longer serves. Ingest repeats the change; no caller sees this."""


class CollectionStore(Protocol):
    """One collection.

    ``name``, ``config``, ``generation``, ``sequence``, ``ef``, ``info``, ``stats`` and ``generations`` never open it.
    """

    @property
    def name(self) -> str:
        """The collection's name."""

    @property
    def is_open(self) -> bool:
        """Whether the collection is open now."""

    @property
    def problem(self) -> str:
        """Why the last attempt to open or inspect it failed; empty after a success, or before any attempt."""

    @property
    def config(self) -> CollectionConfig:
        """The settings with which it was made, the search defaults as last updated, and the serving generation's."""

    @property
    def generation(self) -> int:
        """Number of the generation that serves."""

    @property
    def sequence(self) -> int:
        """Sequence of the last commit; every read that starts later sees it."""

    def ef(self, *, filtered: bool) -> int:
        """The ``ef`` of dense searches of the serving generation that name none; see ``GenerationReader.ef``."""

    def info(self) -> CollectionInfo:
        """Counts and sizes now. Cheap: no table is scanned.

        If the collection has not been open since the start, the counts of segments include dead passages.
        """

    def stats(self) -> CollectionStats:
        """The state of compaction of the serving generation; for a closed collection, without its segments."""

    def commit(
        self,
        changes: Sequence[Change],
        position: StreamPosition | None = None,
        failures: Sequence[DeadLetter] = (),
    ) -> Future[Commit]:
        """Applies changes in order, all or none, together with the stream position and the failures.

        The future is done when the changes are synced to disk and searchable. Commits of several callers share one
        transaction; an error fails only its own caller's changes. Without changes, it records only the position.

        Raises (through the future):
            GenerationChanged: a document lacks passages for the generation that serves now; none was written.
            OutOfSpace: the disk is full; none of these changes was written.
        """

    def delete_matching(self, filter: Filter) -> Future[int]:
        """Deletes the documents that pass; the future gets their number when all deletions are durable."""

    def stream_position(self, stream: str) -> int:
        """The last position committed for a named stream; 0 for an unknown one."""

    def failures(self, stream: str, first: int, last: int) -> Mapping[int, DeadLetter]:
        """The recorded failures of a stream between two positions, both included, by position."""

    def dead_letters(self, after: int, limit: int) -> tuple[Sequence[DeadLetter], int | None]:
        """Up to ``limit`` failures with a number above ``after``, oldest first, and the next ``after`` or None."""

    def dead_letters_by_number(self, numbers: Sequence[int]) -> Sequence[DeadLetter]:
        """The recorded failures that exist among these numbers, oldest first."""

    def delete_dead_letters(self, numbers: Sequence[int]) -> Future[int]:
        """Removes failures by number; the future gets how many existed."""

    def unchanged(self, hashes: Mapping[str, bytes]) -> Mapping[str, int]:
        """The sequence of each document that is stored with the given content hash, by id."""

    def documents_by_id(self, ids: Sequence[str], include: Include) -> Mapping[str, StoredDocument]:
        """The documents with these ids that exist, by id, with the parts asked for."""

    def page(
        self, filter: Filter | None, after: int, limit: int, include: Include
    ) -> tuple[Sequence[StoredDocument], int | None]:
        """Up to ``limit`` documents that pass with a sequence above ``after``, by sequence, and the next ``after``.

        The next ``after`` is None on the last page.
        """

    def count(self, filter: Filter | None) -> int:
        """Number of live documents that pass; without a filter, from a counter."""

    def select(self, filter: Filter) -> Selection:
        """Resolves a filter at the current sequence. Results are cached by filter and sequence."""

    def lexical(self, text: str, documents: int, selection: Selection | None = None) -> LexicalCandidates:
        """Up to ``documents`` documents that share words with ``text``, best by BM25 first. Accepts any text."""

    def read_generation(self, number: int | None = None) -> Lease[GenerationReader]:
        """Reads a generation: the serving one if ``number`` is None. Opens the collection and keeps it open.

        The generation's rows and files stay until the lease is released, or until the longest deadline of a call. Never
        blocks if the collection is open.

        Raises:
            GenerationNotFound: the collection has no such generation, or it is being dropped.
            GenerationNotReady: the generation is damaged and cannot be used.
        """

    def generations(self) -> Sequence[Generation]:
        """All generations by number, with those that are being dropped; of a closed collection, as of its closing."""

    def create_generation(self, config: GenerationConfig) -> Future[Generation]:
        """Makes an empty generation to build. From then on, commits may bring passages for it.

        Raises (through the future):
            GenerationNotReady: another generation is being built.
        """

    def documents_to_build(
        self, number: int, limit: int, max_bytes: int, *, after: int | None = None
    ) -> tuple[Sequence[StoredDocument], int]:
        """The next documents that a generation lacks, by key, and the cursor after them, with texts and no metadata.

        At most ``limit``, and fewer once their texts exceed ``max_bytes``. Documents above the cursor that have their
        passages already are left out, and the cursor passes them. If
        nothing is lacking, there are no documents, and the cursor is the last key given out. The passage counts are
        those of the serving generation.

        Args:
            after: a cursor from an earlier call, to read ahead of what is built; None for the generation's own.

        Raises:
            GenerationNotFound, GenerationNotReady: the generation cannot be built.
        """

    def build(
        self,
        number: int,
        built: Sequence[BuiltDocument],
        cursor: int,
        *,
        tokens: int,
        failures: Sequence[DeadLetter] = (),
    ) -> Future[Generation]:
        """Adds passages to a generation and moves its cursor, in one transaction.

        Skips documents that were deleted or replaced since they were read, and those that have passages by now. Moves
        the cursor on past documents that commits have brought passages for.

        Args:
            built: all documents of a portion that ``documents_to_build`` gave, also those without passages.
            cursor: the cursor after the portion. Portions come in the order in which they were read.
            tokens: tokens that were embedded.
            failures: dead letters of documents that the generation refused, which are in ``built`` without passages.

        Raises (through the future):
            GenerationNotFound: the generation was dropped.
            GenerationNotReady: the generation is damaged, or a portion before this one was not built.
            OutOfSpace: the disk is full; nothing was written.
        """

    def pause_build(self, number: int, reason: str, *, by_user: bool) -> Future[Generation]:
        """Records durably why a build is paused; an empty reason lets it go on.

        Args:
            by_user: whether a caller asks for it. Only a caller ends or replaces a caller's pause.

        Raises (through the future):
            GenerationNotFound: the generation was dropped.
            GenerationNotReady: it serves.
        """

    def switch_generation(self, number: int) -> Future[Generation]:
        """Lets a complete generation serve; the one that served becomes the former. One transaction.

        The generation that was the former one before, if any, is dropped. Searches under way keep theirs.

        Raises (through the future):
            GenerationNotFound: there is no such generation, or it is being dropped.
            GenerationNotReady: the generation lacks documents.
        """

    def drop_generation(self, number: int) -> Future[None]:
        """Drops a generation that does not serve; the future is done when that is durable.

        The store frees its space in the background, a few pages at a time, once no search reads the generation.

        Raises (through the future):
            GenerationNotFound: there is no such generation, or it is being dropped.
            GenerationNotReady: it serves.
        """

    def update_search_defaults(self, defaults: SearchDefaults, *, expected: SearchDefaults | None = None) -> bool:
        """Replaces the search defaults durably. A new ``ef`` or ``recall_target`` undoes what ``raise_ef`` did.

        Returns:
            False, with nothing changed, where the search defaults are not ``expected``; None expects any.
        """

    def raise_ef(self, ef: int, *, filtered: bool, under: SearchDefaults, generation: int) -> None:
        """Raises the ``ef`` of searches that name none, durably. Leaves the search defaults as they are.

        ``under`` are the search defaults for which the recall was too low, ``generation`` the generation that served.
        Does nothing if another one serves by now, or the ``ef`` or ``recall_target`` of the search defaults has changed
        since. A switch undoes the raise.
        """


class Store(Protocol):
    """All collections of a server."""

    def create(self, name: str, config: CollectionConfig, *, number_format: str = "") -> CollectionStore:
        """Makes a collection, durably.

        Args:
            number_format: what the embedder computes in; see ``GenerationConfig``.

        Raises:
            CollectionExists: a collection has that name.
            InvalidArgument: the name is not allowed.
        """

    def find(self, name: str) -> CollectionStore:
        """The collection of that name, open or not; the same object each time.

        Raises:
            CollectionNotFound: no collection has that name.
        """

    def lease(self, name: str) -> Lease[CollectionStore]:
        """Opens the collection of that name and keeps it open.

        Raises:
            CollectionNotFound: no collection has that name.
            DataCorrupted: its database is damaged.
            NewerDataFormat: a newer release wrote it.
            Overloaded: too many other collections are in use.
        """

    def try_lease(self, name: str) -> Lease[CollectionStore] | None:
        """Leases the collection if it is open already, else returns None. Never blocks."""

    def names(self) -> Sequence[str]:
        """Names of all collections, sorted."""

    def known(self) -> Sequence[CollectionStore]:
        """The collections used or inspected since the start, most recently used first."""

    def reindexing(self) -> Sequence[str]:
        """Names of the collections that need a build, sorted. Opens none of them.

        They have a generation that is being built or waits for its switch, or a former one that lacks documents.
        """

    def open_all(self) -> bool:
        """Opens every collection, if all of them may stay open; if they are too many, returns False and does nothing.

        A damaged collection is logged and answers its own calls with the reason. It does not affect the others.
        """

    def survey(self) -> None:
        """Inspects each collection once, slowly and in the background, and so logs damage early. Never blocks."""

    def drop(self, name: str) -> None:
        """Removes a collection and its files, durably. Raises ``CollectionNotFound``."""

    def verify(
        self,
        name: str,
        *,
        sample: int = 200,
        repair: bool = False,
        accept_loss: bool = False,
        progress: Callable[[str], None] = lambda step: None,
        cancellation: Cancellation = NEVER,
    ) -> CollectionReport:
        """Checks a collection, and with ``repair`` rebuilds what the database allows; takes minutes if it is large.

        If the collection cannot be opened, the report says so. With ``repair`` and ``accept_loss``, a collection that
        lacks acknowledged commits goes on without them.

        Args:
            sample: how many vectors of each segment to search for.
            progress: called with the name of each step before the step.

        Raises:
            CollectionNotFound: no collection has that name.
        """

    def backup(
        self,
        folder: Path,
        names: Sequence[str] | None = None,
        *,
        progress: Callable[[Progress], None] = lambda progress: None,
        cancellation: Cancellation = NEVER,
    ) -> Backup:
        """Backs up all collections, or the named ones, into a new folder, each as of one commit.

        Raises:
            InvalidArgument: ``folder`` exists or is being made, or its parent does not exist.
            CollectionNotFound: one of the named collections does not exist.
            DataCorrupted: some collections cannot be opened; the message names each. Nothing was copied.
            OutOfSpace: the folder's disk is full; the unfinished copy is removed.
            OperationCancelled: the backup was cancelled; nothing is left of it.
        """

    def backups(self, folder: Path) -> Sequence[Backup]:
        """The complete backups in a folder of backups, newest first."""

    def restore(
        self,
        folder: Path,
        name: str,
        new_name: str | None = None,
        *,
        progress: Callable[[Progress], None] = lambda progress: None,
        cancellation: Cancellation = NEVER,
    ) -> CollectionStore:
        """Makes a collection from a backup, durably, under its own name or a new one.

        Raises:
            CollectionExists: a collection has that name already.
            CollectionNotFound: the backup has no collection of that name.
            InvalidArgument: the folder is not a backup, or the new name is not allowed.
            DataCorrupted: the backup is damaged.
            OperationCancelled: the restore was cancelled; nothing is left of it.
        """

    def close(self) -> None:
        """Finishes pending commits, checkpoints and closes. Idempotent."""
