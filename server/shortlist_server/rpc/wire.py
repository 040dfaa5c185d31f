"""Counts what a serialised message holds, before objects are made of it.

Two bytes on the wire can become an object of a hundred and thirty, and a parser makes them all before anyone can look
at the message. This walks over the bytes instead (https://protobuf.dev/programming-guides/encoding) and makes nothing:
each repeated field has a limit of its own, and the message one for all its fields and all its nested messages together.
Strings and bytes are skipped, so a walk costs about half a microsecond for each field and nothing for its size. Pure;
any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from shortlist_server.errors import InvalidArgument

MAX_LEVELS = 100
"""Messages within messages; protobuf's own parsers stop there too."""

MAX_FIELDS = 600_000
"""Fields of a message and all within it. A walk over as many takes a third of a second."""

MAX_MESSAGES = 300_000
"""Messages, strings and byte strings in repeated fields, and nested messages, of one message: some 40 MB of objects."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VALUE_BYTES = {
    FieldDescriptor.CPPTYPE_DOUBLE: 8,
    FieldDescriptor.CPPTYPE_FLOAT: 4,
    FieldDescriptor.CPPTYPE_STRING: 0,
    FieldDescriptor.CPPTYPE_MESSAGE: 0,
}
_FIXED_TYPES = {
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
}
_NOT_LAST = bytes(range(128, 256))
"""The bytes of varints but for the last of each."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Most elements of a repeated field of one message, and the error when there are more."""

    most: int
    error: type[InvalidArgument] = InvalidArgument


@dataclass(slots=True)
class _Field:
    name: str
    limit: Limit | None
    """None: the field is not repeated."""

    nested: dict[int, _Field] | None
    """The fields of its message; None: it is none."""

    value_bytes: int
    """Bytes of a packed value; 0: it cannot be packed, 1: it is a varint of at least one."""


class Walker:
    """Checks serialised messages of one type, and of all types within it."""

    def __init__(self, descriptor: Descriptor, limits: Mapping[str, Limit]) -> None:
        """``limits``: of each repeated field by its full name.

        Raises:
            LookupError: a repeated field that such a message may hold has no limit.
        """
        self._fields = _fields_of(descriptor, limits, {})

    def check(self, data: bytes | bytearray) -> int:
        """Walks over a message; returns how many objects a parser would make of it, about.

        Raises:
            InvalidArgument, or the class of the field's limit: there is too much in it, or it cannot be read.
        """
        walk = _Walk(data)
        try:
            walk.over(self._fields, 0, len(data), 1)
        except IndexError:
            raise _malformed() from None
        except _TooMany as error:
            field = ".".join(reversed(error.path))
            raise error.limit.error(
                f"{field} has more than {error.limit.most} elements",
                field=field,
                metadata={"maximum": str(error.limit.most)},
            ) from None
        return MAX_MESSAGES - walk.messages_left


class _TooMany(Exception):
    def __init__(self, name: str, limit: Limit) -> None:
        self.path = [name]
        self.limit = limit


class _Walk:
    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data
        self.fields_left = MAX_FIELDS
        self.messages_left = MAX_MESSAGES

    def over(self, fields: dict[int, _Field], at: int, end: int, level: int) -> None:
        """Walks over the message at ``data[at:end]``. Raises IndexError where the data end within a field."""
        if level > MAX_LEVELS:
            raise _malformed()
        data = self.data
        counts: dict[str, int] = {}
        while at < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                raise InvalidArgument(
                    f"a message has at most {MAX_FIELDS} fields, with all within it; send less at once"
                )
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = _varint(data, at - 1)
            wire = tag & 7
            field = fields.get(tag >> 3)
            begin = at
            if wire == _BYTES:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = _varint(data, at - 1)
                begin = at
                at += size
            elif wire == _VARINT:
                while data[at] > 127:
                    at += 1
                at += 1
            elif wire == _FIXED32:
                at += 4
            elif wire == _FIXED64:
                at += 8
            else:
                raise _malformed()
            if at > end:
                raise _malformed()
            if field is None:
                continue
            if field.limit is not None:
                count = counts.get(field.name, 0) + self._elements(field, wire, begin, at)
                if count > field.limit.most:
                    raise _TooMany(field.name, field.limit)
                counts[field.name] = count
            if field.nested is not None and wire == _BYTES:
                self._add()
                try:
                    self.over(field.nested, begin, at, level + 1)
                except _TooMany as error:
                    index = "" if field.limit is None else f"[{counts[field.name] - 1}]"
                    error.path.append(field.name + index)
                    raise

    def _elements(self, field: _Field, wire: int, begin: int, end: int) -> int:
        """How many elements of a repeated field there are at this place."""
        if wire != _BYTES:
            return 1
        if not field.value_bytes:
            if field.nested is None:
                self._add()
            return 1
        if field.value_bytes > 1:
            return (end - begin) // field.value_bytes
        return len(self.data[begin:end].translate(None, _NOT_LAST))

    def _add(self) -> None:
        self.messages_left -= 1
        if self.messages_left < 0:
            raise InvalidArgument(f"a message holds at most {MAX_MESSAGES} others; send less at once")


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise _malformed()


def _fields_of(
    descriptor: Descriptor, limits: Mapping[str, Limit], known: dict[str, dict[int, _Field]]
) -> dict[int, _Field]:
    fields = known.get(descriptor.full_name)
    if fields is None:
        fields = known[descriptor.full_name] = {}
        for field in descriptor.fields:
            nested = None if field.message_type is None else _fields_of(field.message_type, limits, known)
            limit = limits[field.full_name] if field.is_repeated else None
            value_bytes = _VALUE_BYTES.get(field.cpp_type, _FIXED_TYPES.get(field.type, 1))
            fields[field.number] = _Field(field.name, limit, nested, value_bytes)
    return fields


def _malformed() -> InvalidArgument:
    return InvalidArgument("the message cannot be read")
