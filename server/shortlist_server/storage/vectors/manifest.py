"""The manifest of a segment: what its folder must contain, to the byte.

The manifest file lists each data file with size and SHA-256. It names the collection and the segment, which detects a
file swapped with another collection's. The database holds the checksum of the manifest itself. Pure values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from shortlist_server.domain import NEVER, Cancellation
from shortlist_server.storage.layout import DATA_FILES, MANIFEST_FILE, TWINS_FILE
from shortlist_server.storage.reports import FileEntry
from shortlist_server.storage.values import SegmentRow

MANIFEST_FORMAT = 2
"""The format written now. In format 1 every row was a node of the graph, and no file of twins existed."""

_FILES = {1: set(DATA_FILES) - {TWINS_FILE}, MANIFEST_FORMAT: set(DATA_FILES)}
_CHUNK = 1 << 20


class SegmentDamaged(Exception):
    """A segment's folder differs from its manifest; the message names the file. Never reaches a caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of ``manifest.json``."""

    format: int
    collection: str
    segment: str
    dimension: int
    low: int
    high: int
    passages: int
    files: Mapping[str, FileEntry]

    def dump(self) -> bytes:
        """The manifest file's content."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def load(cls, content: bytes) -> Manifest:
        """Reads a manifest file whose checksum has been checked.

        Raises:
            SegmentDamaged: this release does not know the format.
        """
        try:
            values = json.loads(content)
            files = {name: FileEntry(**entry) for name, entry in values.pop("files").items()}
            manifest = cls(files=files, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SegmentDamaged(f"{MANIFEST_FILE}: {error}") from error
        if set(files) != _FILES.get(manifest.format):
            raise SegmentDamaged(f"{MANIFEST_FILE}: format {manifest.format} is not known")
        return manifest


def sha256(content: bytes) -> str:
    """The checksum of some bytes."""
    return hashlib.sha256(content).hexdigest()


def describe(path: Path, cancellation: Cancellation = NEVER) -> FileEntry:
    """Size and checksum of a file; reads it once, without holding the interpreter lock.

    Raises:
        OperationCancelled: the reading was cancelled.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            cancellation.check()
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def check_folder(
    folder: Path, row: SegmentRow, collection: str, dimension: int, cancellation: Cancellation = NEVER
) -> Manifest:
    """Reads and checks every file of a segment.

    Raises:
        OperationCancelled: the check was cancelled.
        SegmentDamaged: a file is missing, cut short or changed, or belongs to another segment.
    """
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
        if sha256(content) != row.checksum:
            raise SegmentDamaged(f"{MANIFEST_FILE}: checksum differs from the database's")
        manifest = Manifest.load(content)
        expected = (collection, row.uid, dimension, row.low, row.high, row.passages)
        found = (
            manifest.collection,
            manifest.segment,
            manifest.dimension,
            manifest.low,
            manifest.high,
            manifest.passages,
        )
        if expected != found:
            raise SegmentDamaged(f"{MANIFEST_FILE}: belongs to another segment or model")
        for name, entry in manifest.files.items():
            if describe(folder / name, cancellation) != entry:
                raise SegmentDamaged(f"{name}: checksum differs from the manifest's")
    except OSError as error:
        raise SegmentDamaged(f"{error.filename or folder}: {error.strerror}") from error
    return manifest
