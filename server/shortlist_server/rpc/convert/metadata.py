"""A document's metadata: a Struct on the wire, JSON values inside."""

from __future__ import annotations

import json
import math
from typing import Any

from google.protobuf import struct_pb2

from shortlist_server.errors import DocumentTooLarge, InvalidArgument
from shortlist_server.rpc.convert.filters import MAX_PATH_BYTES, can_be_named, key_in_path

MAX_LEVELS = 16
MAX_KEYS = 256
FIELD = "document.metadata"

LARGEST_GROWTH = 6
"""JSON takes at most so many bytes for one of the wire format: a control character becomes six."""


def metadata_in(message: struct_pb2.Struct, max_bytes: int) -> dict[str, Any]:
    """Metadata as JSON values; whole numbers become ints.

    Every key can be named by a filter, those of objects in lists included, so that lists can become objects later.

    Raises:
        InvalidArgument: a number is not finite, or a filter could not name a key.
        DocumentTooLarge: too many bytes of JSON, keys or levels.
    """
    if not message.fields:
        return {}
    metadata, _ = _object(message, 1, 0, FIELD)
    if message.ByteSize() * LARGEST_GROWTH > max_bytes:
        size = len(json.dumps(metadata, ensure_ascii=False).encode())
        if size > max_bytes:
            raise DocumentTooLarge(
                f"{size} bytes of metadata, at most {max_bytes} are allowed",
                field=FIELD,
                metadata={"limit": str(max_bytes)},
            )
    return metadata


def _object(struct: struct_pb2.Struct, level: int, keys: int, at: str) -> tuple[dict[str, Any], int]:
    """An object, whose path is ``at``, and the number of keys so far."""
    _check_level(level)
    keys += len(struct.fields)
    if keys > MAX_KEYS:
        raise DocumentTooLarge(f"metadata has at most {MAX_KEYS} keys", field=FIELD)
    values = {}
    for key, value in struct.fields.items():
        values[key], keys = _value(value, level, keys, _path(at, key))
    return values, keys


def _path(at: str, key: str) -> str:
    """The path of a key in the object at a path."""
    if not can_be_named(key):
        raise InvalidArgument("a key is empty or has control characters, so that no filter could name it", field=at)
    path = f"{at}.{key_in_path(key)}"
    if len(path.encode()) > len(FIELD) + 1 + MAX_PATH_BYTES:
        raise InvalidArgument(
            f"the path of a key has more than {MAX_PATH_BYTES} bytes, so that no filter could name it", field=at
        )
    return path


def _value(value: struct_pb2.Value, level: int, keys: int, at: str) -> tuple[Any, int]:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value, keys
    if kind == "number_value":
        number = value.number_value
        if not math.isfinite(number):
            raise InvalidArgument("a number in metadata must be finite", field=at)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number, keys
    if kind == "bool_value":
        return value.bool_value, keys
    if kind == "struct_value":
        return _object(value.struct_value, level + 1, keys, at)
    if kind == "list_value":
        _check_level(level + 1)
        items = []
        for element in value.list_value.values:
            item, keys = _value(element, level + 1, keys, at)
            items.append(item)
        return items, keys
    return None, keys


def _check_level(level: int) -> None:
    if level > MAX_LEVELS:
        raise DocumentTooLarge(f"metadata has at most {MAX_LEVELS} levels", field=FIELD)
