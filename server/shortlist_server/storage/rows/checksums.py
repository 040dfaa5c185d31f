"""Checksums of rows: CRC-32 over columns in which SQLite would not notice a flipped bit.

The table ``documents`` stores the checksums of texts and metadata, ``vectors`` those of vectors. The other checksums
cover the columns that say what belongs to what: ids, keys, sequences and positions. One covers all settings.
Pure functions.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from shortlist_server.errors import DataCorrupted

_DOCUMENT = struct.Struct("<qqq")
_PASSAGE = struct.Struct("<qqqqqq")
_POSITION = struct.Struct("<q")

SETTINGS_CHECKSUM = "checksum"
"""Name of the setting that holds the checksum of all others."""


def text_checksum(title: str, text: str) -> int:
    """The checksum of a document's title and text."""
    return zlib.crc32(text.encode(), zlib.crc32(title.encode()))


def document_checksum(key: int, id: str | bytes, sequence: int, passage_count: int, content_hash: bytes) -> int:
    """The checksum of a document's identity, stored in the table ``identities``. ``id`` may be its UTF-8 bytes."""
    name = id.encode() if isinstance(id, str) else id
    return zlib.crc32(name, zlib.crc32(content_hash, zlib.crc32(_DOCUMENT.pack(key, sequence, passage_count))))


def id_checksum(id: str | bytes, key: int) -> int:
    """The checksum of an id with its key. The counters hold the exclusive or of all of them."""
    return zlib.crc32(id.encode() if isinstance(id, str) else id, zlib.crc32(_POSITION.pack(key)))


def passage_checksum(passage_id: int, key: int, ordinal: int, start: int, end: int, tokens: int) -> int:
    """The checksum of a row of ``passages``."""
    return zlib.crc32(_PASSAGE.pack(passage_id, key, ordinal, start, end, tokens))


def stream_checksum(name: str | bytes, position: int) -> int:
    """The checksum of a row of ``streams``. ``name`` may be its UTF-8 bytes."""
    return zlib.crc32(name.encode() if isinstance(name, str) else name, zlib.crc32(_POSITION.pack(position)))


def settings_checksum(settings: Mapping[str, str]) -> int:
    """The checksum of all settings except itself."""
    checksum = 0
    for name in sorted(settings.keys() - {SETTINGS_CHECKSUM}):
        checksum = zlib.crc32(f"{name}\0{settings[name]}\0".encode(), checksum)
    return checksum


def damaged(what: str) -> DataCorrupted:
    """The error for a value that fails its checksum."""
    return DataCorrupted(f"{what} is damaged on disk; restore the collection from a backup")
