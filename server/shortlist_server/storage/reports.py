"""Reports of a store to an operator: of verifications, backups and compaction. Plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shortlist_server.errors import CollectionNotFound
from shortlist_server.storage.layout import COLLECTIONS_FOLDER

BACKUP_FORMAT = 2
"""The format of backups that this release makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was checked, and what was found. ``detail`` is a sentence when the check failed."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class CollectionReport:
    """What a verification found.

    Attributes:
        sampled: number of vectors that were searched for.
        reached: number of those that were found.
        repairs: what ``repair`` did.
        notes: what else the reader should know.
    """

    name: str
    documents: int = 0
    passages: int = 0
    segment_passages: int = 0
    growing_passages: int = 0
    sampled: int = 0
    reached: int = 0
    checks: list[Check] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def problems(self) -> list[str]:
        """One line for each check that failed."""
        return [f"{check.name}: {check.detail}" for check in self.checks if not check.ok]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a backup or restore.

    Attributes:
        collection: the collection being copied.
        done_bytes, total_bytes: bytes of that collection; the total may still grow.
        note: a sentence that the caller should read; usually "".
    """

    collection: str
    done_bytes: int
    total_bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size and checksum of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedUp:
    """A collection in a backup, as of ``sequence``.

    Attributes:
        bytes: size of all its files.
        uid: its identity; "" in format 1.
        files: its files by their paths in the collection's folder; empty in format 1.
        models: names of the models that it needs; empty in backups of earlier releases.
    """

    name: str
    sequence: int
    documents: int
    passages: int
    segments: int
    bytes: int
    uid: str = ""
    files: Mapping[str, FileEntry]
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A complete backup in ``folder``."""

    folder: Path
    create_time_seconds: float
    collections: Sequence[BackedUp]
    format: int = BACKUP_FORMAT

    def entry(self, name: str) -> BackedUp:
        """The collection of that name. Raises ``CollectionNotFound``."""
        for entry in self.collections:
            if entry.name == name:
                return entry
        raise CollectionNotFound(f"the backup has no collection {name!r}", metadata={"collection": name})

    def path(self, name: str) -> Path:
        """The folder of a collection in the backup."""
        return self.folder / COLLECTIONS_FOLDER / name


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStats:
    """A published segment, with its numbers of live and of dead passages."""

    uid: str
    passages: int
    dead_passages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionStats:
    """The state of a collection's compaction: segments of the generation that serves, counts of all generations.

    Attributes:
        growing_passages: passages in the growing segment, which is searched exactly.
        flushes, merges, build_failures: counts since the server started, kept while the collection is closed.
        failing: whether the last build failed; searches are right but slower until one succeeds.
        waited_seconds: how long commits waited because the growing segment outgrew the builder.
        damaged_segments: segments that were dropped when the collection was opened, and why.
    """

    growing_passages: int
    segments: tuple[SegmentStats, ...]
    flushes: int
    merges: int
    build_failures: int
    failing: bool
    last_build_error: str
    waited_seconds: float
    damaged_segments: tuple[str, ...]
