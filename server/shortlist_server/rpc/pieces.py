"""Answers serialised piece by piece, so that a large one never holds up the other threads.

protobuf keeps the interpreter's lock while it serialises a message: 4 MB in one go stop every thread for several
milliseconds, and the same bytes in pieces of 500 KB for a tenth of that. The serialised fields of a message may be
joined (https://protobuf.dev/programming-guides/encoding/#last-one-wins), and joining gives the lock up. Any thread; a
``Pieces`` belongs to one at a time.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import Message

from shortlist_server.pipeline.portions import answer_too_large

M = TypeVar("M", bound=Message)

_LENGTH_DELIMITED = 2
"""Wire type of a message within another."""


class Pieces(Generic[M]):
    """The serialised fields of one message, of type ``M``."""

    def __init__(self, fields: M, max_bytes: int = 0) -> None:
        """``fields``: a message with some of the fields. ``max_bytes``: of the whole; 0: no limit.

        Raises:
            InvalidArgument: they are too large; so do the other methods that add.
        """
        self._pieces: list[bytes] = []
        self._max_bytes = max_bytes
        self.size = 0
        """Bytes of all pieces."""

        self.merge(fields)

    def merge(self, fields: M) -> None:
        """Adds further fields, and elements of repeated ones."""
        self._append(fields.SerializeToString())

    def add(self, number: int, value: Message | Pieces[Any] | bytes) -> None:
        """Adds a message, whole or serialised, as the field with this number or as one more element of it."""
        if isinstance(value, Pieces):
            self._append(_header(number, value.size))
            for piece in value._pieces:
                self._append(piece)
        else:
            data = value if isinstance(value, bytes) else value.SerializeToString()
            self._append(_header(number, len(data)))
            self._append(data)

    def joined(self) -> bytes:
        """The whole as bytes, to be a part of another message."""
        return b"".join(self._pieces)

    def answer(self) -> M:
        """The whole as bytes, which the interceptors send as they are.

        The type is that of the message because the generated servicers demand it.
        """
        return cast(M, self.joined())

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size += len(piece)
        if self._max_bytes and self.size > self._max_bytes:
            raise answer_too_large(self._max_bytes)


def as_bytes(serialize: Any, response: Any) -> Any:
    """The bytes of a response; bytes stay as they are."""
    return response if isinstance(response, bytes) else serialize(response)


def _header(number: int, size: int) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
