"""The record of a collection's last commit: a small file beside its database, synced after each commit.

SQLite cannot tell a write-ahead log that is gone, or cut short by a damaged frame, from one that never had more. The
record can: it says how many commits were acknowledged, and how far sequences, keys and passage ids had come.

The file has two slots of 4,096 bytes, one for even and one for odd commits, so a torn write leaves the record of the
commit before. The writer overwrites a slot in place after the database's commit and before any acknowledgement. A
database may therefore be one commit ahead of its record, and is never behind it. A ``CommitRecord`` belongs to the
writer thread.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.storage.disk.files import Files

_MAGIC = b"SLCOMMIT"
_SLOT_BYTES = 4096
# Magic, identity of the collection, commits, sequence, next key, next passage id. A CRC-32 of all this precedes it.
_SLOT = struct.Struct("<8s16sqqqq")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The state of a collection's counters after a commit.

    Attributes:
        uid: the collection's identity, 32 hexadecimal digits.
        commits: number of the writer's transactions so far.
        sequence: the last sequence assigned.
        next_key, next_label: the next key and passage id to assign.
    """

    uid: str
    commits: int
    sequence: int
    next_key: int
    next_passage_id: int


class CommitRecord:
    """The open record file."""

    def __init__(self, path: Path) -> None:
        # O_DSYNC: each write returns when its bytes are on the disk, as with fdatasync.
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)

    def write(self, mark: Mark) -> None:
        """Records a commit; the record is on disk when this returns."""
        assert self._descriptor is not None
        packed = _pack(mark)
        if os.pwrite(self._descriptor, packed, _place(mark)) != len(packed):
            raise OSError(errno.EIO, "the record of a commit was cut short")

    def close(self) -> None:
        """Closes the file. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def create_record(path: Path, mark: Mark, files: Files) -> None:
    """Makes the file, or replaces it, with one mark in it. Durable only once its folder is synced."""
    content = bytearray(2 * _SLOT_BYTES)
    packed = _pack(mark)
    content[_place(mark) : _place(mark) + len(packed)] = packed
    files.write(path, bytes(content))
    files.sync(path)


def read_record(path: Path) -> Mark | None:
    """The newest mark in a file; None if the file is missing or neither slot is whole."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    marks = [mark for at in (0, _SLOT_BYTES) if (mark := _unpack(content[at : at + _SLOT_BYTES])) is not None]
    return max(marks, key=lambda mark: mark.commits, default=None)


def _place(mark: Mark) -> int:
    return mark.commits % 2 * _SLOT_BYTES


def _pack(mark: Mark) -> bytes:
    body = _SLOT.pack(_MAGIC, bytes.fromhex(mark.uid), mark.commits, mark.sequence, mark.next_key, mark.next_passage_id)
    return _CHECKSUM.pack(zlib.crc32(body)) + body


def _unpack(slot: bytes) -> Mark | None:
    if len(slot) < _CHECKSUM.size + _SLOT.size:
        return None
    body = slot[_CHECKSUM.size : _CHECKSUM.size + _SLOT.size]
    magic, uid, commits, sequence, next_key, next_passage_id = _SLOT.unpack(body)
    if magic != _MAGIC or _CHECKSUM.unpack(slot[: _CHECKSUM.size])[0] != zlib.crc32(body):
        return None
    return Mark(uid=uid.hex(), commits=commits, sequence=sequence, next_key=next_key, next_passage_id=next_passage_id)
