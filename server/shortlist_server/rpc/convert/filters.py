"""Filters of the proto to filters of the domain."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from shortlist.v1 import filter_pb2 as pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import InvalidFilter

MAX_PATH_BYTES = 512
_CONTROL = re.compile(r"[\x00-\x1f]")


def filter_in(message: pb.Filter, config: Config) -> domain.Filter:
    """A checked filter.

    Raises:
        InvalidFilter: a node has no condition, a path or value is wrong, or the tree is too deep or too large.
    """
    return _Reader(config).read(message, "filter", 1)


def path_in(text: str, field: str) -> tuple[str, ...]:
    """The keys of a metadata path: split at dots, with backslash before a dot or backslash that belongs to a key."""
    if not text or len(text.encode()) > MAX_PATH_BYTES:
        raise InvalidFilter(f"a field is a path of 1 to {MAX_PATH_BYTES} bytes", field=field)
    keys, key, characters = [], "", iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if escaped not in (".", "\\"):
                raise InvalidFilter("a backslash in a field is followed by a dot or a backslash", field=field)
            key += escaped
        elif character == ".":
            keys.append(key)
            key = ""
        else:
            key += character
    keys.append(key)
    if not all(map(can_be_named, keys)):
        raise InvalidFilter("a key in a field is empty or has control characters", field=field)
    return tuple(keys)


def can_be_named(key: str) -> bool:
    """Whether a metadata path can name this key."""
    return bool(key) and _CONTROL.search(key) is None


def key_in_path(key: str) -> str:
    """A key as a path spells it."""
    return key.replace("\\", "\\\\").replace(".", "\\.") if "." in key or "\\" in key else key


class _Reader:
    def __init__(self, config: Config) -> None:
        self._max_depth = config.max_filter_depth
        self._max_nodes = config.max_filter_nodes
        self._max_values = config.max_filter_values
        self._nodes = 0

    def read(self, message: pb.Filter, field: str, depth: int) -> domain.Filter:
        self._nodes += 1
        if depth > self._max_depth or self._nodes > self._max_nodes:
            raise self._too_large(field)
        kind = message.WhichOneof("condition")
        if kind is None:
            raise InvalidFilter("a filter needs a condition", field=field)
        at = f"{field}.{kind}"
        if kind == "all_of":
            return domain.AllOf(self._several(message.all_of.filters, at, depth))
        if kind == "any_of":
            return domain.AnyOf(self._several(message.any_of.filters, at, depth))
        if kind == "negation":
            return domain.Negation(self.read(message.negation, at, depth + 1))
        if kind == "equals":
            return domain.Equals(_path(message.equals.field, at), _scalar(message.equals.value, f"{at}.value"))
        if kind == "one_of":
            values = message.one_of.values
            if not 1 <= len(values) <= self._max_values:
                raise InvalidFilter(f"{len(values)} values, 1 to {self._max_values} are allowed", field=f"{at}.values")
            return domain.OneOf(
                _path(message.one_of.field, at), tuple(_scalar(v, f"{at}.values[{i}]") for i, v in enumerate(values))
            )
        if kind == "range":
            return _range(message.range, at)
        if kind == "exists":
            return domain.Exists(_path(message.exists.field, at))
        return domain.Contains(_path(message.contains.field, at), _scalar(message.contains.value, f"{at}.value"))

    def _several(self, filters: Sequence[pb.Filter], at: str, depth: int) -> tuple[domain.Filter, ...]:
        if not filters:
            raise InvalidFilter("at least one filter is needed", field=f"{at}.filters")
        if self._nodes + len(filters) > self._max_nodes:
            raise self._too_large(f"{at}.filters")
        return tuple(self.read(message, f"{at}.filters[{i}]", depth + 1) for i, message in enumerate(filters))

    def _too_large(self, field: str) -> InvalidFilter:
        return InvalidFilter(f"a filter has at most {self._max_depth} levels and {self._max_nodes} nodes", field=field)


def _path(text: str, at: str) -> tuple[str, ...]:
    return path_in(text, f"{at}.field")


def _scalar(message: pb.Scalar, field: str) -> domain.Scalar:
    kind = message.WhichOneof("value")
    if kind is None:
        raise InvalidFilter("a value is needed", field=field)
    if kind == "number_value" and not math.isfinite(message.number_value):
        raise InvalidFilter("a number must be finite", field=field)
    value: domain.Scalar = getattr(message, kind)
    return value


def _bound(message: pb.Scalar, field: str) -> str | float:
    value = _scalar(message, field)
    if isinstance(value, bool):
        raise InvalidFilter("a bound is a string or a number", field=field)
    return value


def _range(message: pb.Range, at: str) -> domain.Range:
    lower, upper = message.WhichOneof("lower"), message.WhichOneof("upper")
    if lower is None and upper is None:
        raise InvalidFilter("a range needs a bound", field=at)
    low = _bound(getattr(message, lower), f"{at}.{lower}") if lower else None
    high = _bound(getattr(message, upper), f"{at}.{upper}") if upper else None
    if low is not None and high is not None and isinstance(low, str) != isinstance(high, str):
        raise InvalidFilter("the bounds of a range are of one type", field=at)
    return domain.Range(
        _path(message.field, at), lower=low, lower_inclusive=lower == "gte", upper=high, upper_inclusive=upper == "lte"
    )
