"""Checks that several messages share."""

from __future__ import annotations

import re
from typing import TypeVar

from shortlist_server.errors import InvalidArgument

Number = TypeVar("Number", int, float)

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MAX_ID_BYTES = 512
MAX_INSTRUCTION_BYTES = 4096
MAX_FILTERABLE_FIELDS = 32


def collection_name(name: str, field: str = "collection") -> str:
    """A well-formed collection name, which is also a safe folder name."""
    if not name:
        raise InvalidArgument("a collection name is needed", field=field)
    if not NAME.fullmatch(name):
        raise InvalidArgument(
            "a collection name is 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit", field=field
        )
    return name


def document_id(value: str, field: str) -> str:
    """A well-formed document id."""
    if not value:
        raise InvalidArgument("a document id is needed", field=field)
    return _clean(value, MAX_ID_BYTES, field)


def stream_name(value: str, field: str = "start.stream") -> str:
    """A well-formed stream name; may be empty."""
    return _clean(value, 128, field)


def run_id(value: str, field: str = "start.run_id") -> str:
    """A well-formed id of a client's run; may be empty."""
    return _clean(value, 64, field)


def _clean(value: str, max_bytes: int, field: str) -> str:
    size = len(value.encode())
    if size > max_bytes:
        raise InvalidArgument(f"{size} bytes, at most {max_bytes} are allowed", field=field)
    if CONTROL.search(value):
        raise InvalidArgument("control characters are not allowed", field=field)
    return value


def text(value: str, max_bytes: int, field: str) -> str:
    """A text of limited size."""
    size = len(value.encode())
    if size > max_bytes:
        raise InvalidArgument(
            f"{size} bytes of text, at most {max_bytes} are allowed", field=field, metadata={"limit": str(max_bytes)}
        )
    return value


def within(value: Number, low: Number, high: Number, field: str) -> Number:
    """A number between bounds, both included; NaN is not."""
    if not low <= value <= high:
        raise InvalidArgument(
            f"{value} is out of range, {low} to {high} are allowed",
            field=field,
            metadata={"minimum": str(low), "maximum": str(high)},
        )
    return value
