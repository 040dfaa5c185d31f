"""Metadata between Python and protobuf's ``Struct``, and the checks of single values.

Pure functions. Integers stay exact or are refused, with their place; whole numbers come back as ``int``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2

from shortlist._errors import InvalidArgument

EXACT_INTEGER = 2**53
"""Integers beyond this are not exact as the doubles of a ``Struct``."""

MAX_LEVELS = 24
"""Levels of metadata that are translated; protobuf's parser stops at 100 of its own, and an object takes three."""


def checked_text(value: object, field: str) -> str:
    """The text, if it is one and can be UTF-8."""
    if not isinstance(value, str):
        raise InvalidArgument(f"must be a string, not {type(value).__name__}", field=field)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"is not valid Unicode at character {error.start}", field=field) from error
    return value


def checked_integer(value: Any, field: str, bits: int = 32) -> Any:
    """The integer, if it is one that a field of so many bits holds; None, for what is not set, passes.

    Whether it is acceptable otherwise is the server's to say.
    """
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise InvalidArgument(f"must be an integer of {bits} bits", field=field)
    return number


def struct_from_mapping(mapping: Mapping[str, Any], struct: struct_pb2.Struct) -> None:
    """Fills an empty ``Struct``; unlike ``Struct.update`` it refuses what would not come back as it was."""
    if not isinstance(mapping, Mapping):
        raise InvalidArgument(f"must be a mapping, not {type(mapping).__name__}", field="document.metadata")
    _fill_struct(mapping, struct, "document.metadata", MAX_LEVELS)


def struct_to_dict(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A plain dict; whole numbers become ``int``."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def _fill_struct(mapping: Mapping[str, Any], struct: struct_pb2.Struct, path: str, levels: int) -> None:
    fields = struct.fields
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise InvalidArgument(f"keys must be strings, not {type(key).__name__}", field=path)
        checked_text(key, path)
        _fill_value(value, fields[key], f"{path}.{key}", levels - 1)


def _fill_value(value: Any, slot: struct_pb2.Value, path: str, levels: int) -> None:
    if isinstance(value, str):
        slot.string_value = checked_text(value, path)
    elif value is None:
        slot.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        slot.bool_value = value
    elif isinstance(value, int | float):
        slot.number_value = _number(value, path)
    elif levels <= 0:
        raise InvalidArgument(f"more than {MAX_LEVELS} levels", field="document.metadata")
    elif isinstance(value, Mapping):
        slot.struct_value.SetInParent()
        _fill_struct(value, slot.struct_value, path, levels)
    elif isinstance(value, list | tuple):
        slot.list_value.SetInParent()
        for index, item in enumerate(value):
            _fill_value(item, slot.list_value.values.add(), f"{path}[{index}]", levels - 1)
    else:
        raise InvalidArgument(f"{type(value).__name__} is not a JSON value", field=path)


def _number(value: float, path: str) -> float:
    if isinstance(value, int) and abs(value) > EXACT_INTEGER:
        raise InvalidArgument(f"{value} is too large to be kept exactly; use a string", field=path)
    if not math.isfinite(value):
        raise InvalidArgument("NaN and infinity are not JSON values", field=path)
    return float(value)


def _from_value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= EXACT_INTEGER else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return struct_to_dict(value.struct_value)
    if kind == "list_value":
        return [_from_value(item) for item in value.list_value.values]
    return None
