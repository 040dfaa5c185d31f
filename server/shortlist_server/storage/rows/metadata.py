"""Encodes metadata for SQLite's JSON functions to address exactly.

SQLite 3.40 compares a path's key with the raw JSON text, so no path can name a key with a quote, a backslash or a
control character. It also ends a string at U+0000. This module escapes both. The escape is injective, keeps the order
of code points in values, and is applied to the operands of filters as well. Almost no text needs it; other text is
stored unchanged. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shortlist_server.errors import InvalidArgument, InvalidFilter

_KEY_MARK = "\ue000"
_KEY_ESCAPED = frozenset(['"', "\\", _KEY_MARK, *map(chr, range(32))])


def encode(metadata: Mapping[str, Any]) -> str:
    """The stored JSON text of metadata.

    Raises:
        InvalidArgument: a value is not JSON, or a number is not finite.
    """
    if not metadata:
        return "{}"
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        if "\\" in text or _KEY_MARK in text:
            text = json.dumps(_escape(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"metadata must be JSON with finite numbers: {error}", field="metadata") from error
    return text


def decode(text: str) -> dict[str, Any]:
    """The metadata of a stored JSON text."""
    value: dict[str, Any] = json.loads(text)
    if "\\u0001" in text or _KEY_MARK in text:
        restored: dict[str, Any] = _unescape(value)
        return restored
    return value


def escape_value(text: str) -> str:
    """A string as it is stored: U+0000 and U+0001 become two characters each, and strings keep their order."""
    if "\x00" in text or "\x01" in text:
        return text.replace("\x01", "\x01\x02").replace("\x00", "\x01\x01")
    return text


def escape_key(key: str) -> str:
    """A key as it is stored: without quote, backslash or control character."""
    if _KEY_ESCAPED.isdisjoint(key):
        return key
    return "".join(f"{_KEY_MARK}{ord(c):04x}" if c in _KEY_ESCAPED else c for c in key)


def json_path(path: tuple[str, ...]) -> str:
    """The SQLite JSON path of a metadata path. Its keys have no double quotes, but may have single ones."""
    return "$" + "".join(f'."{escape_key(key)}"' for key in path)


def parse_field(field: str) -> tuple[str, ...]:
    r"""Parses a field name into a path: dots separate keys; ``\.`` and ``\\`` are a dot and a backslash in a key.

    Raises:
        InvalidFilter: the name or one of its keys is empty, or a backslash precedes another character.
    """
    keys, key, escaped = [], "", False
    for character in field:
        if escaped:
            if character not in ".\\":
                raise InvalidFilter(f"field {field!r}: a backslash stands only before a dot or a backslash")
            key, escaped = key + character, False
        elif character == "\\":
            escaped = True
        elif character == ".":
            keys.append(key)
            key = ""
        else:
            key += character
    keys.append(key)
    if escaped or not all(keys):
        raise InvalidFilter(f"field {field!r} has an empty key or ends in a backslash")
    return tuple(keys)


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return escape_value(value)
    if isinstance(value, Mapping):
        return {escape_key(key): _escape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(item) for item in value]
    return value


def _unescape(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x01\x01", "\x00").replace("\x01\x02", "\x01")
    if isinstance(value, dict):
        return {_unescape_key(key): _unescape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescape(item) for item in value]
    return value


def _unescape_key(key: str) -> str:
    first, *rest = key.split(_KEY_MARK)
    return first + "".join(chr(int(part[:4], 16)) + part[4:] for part in rest)
