"""Filters as Python expressions: ``(Field("year") >= 2020) & ~Field("lang").is_in(["de", "fr"])``.

Immutable values over the proto's filter tree, which says what each condition means: a condition is true or false for
every document, never unknown, and types are never converted. Nothing here talks to a server.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn

from shortlist._errors import InvalidFilter
from shortlist._metadata import EXACT_INTEGER
from shortlist.v1 import filter_pb2

Scalar = str | int | float | bool
"""A value to compare with. True is not 1, and "1" is neither."""


class Filter:
    """A condition on metadata; combine with ``&``, ``|`` and ``~``.

    ``and``, ``or``, ``not`` and chained comparisons (``1 < field < 5``) cannot be told apart from their last part, so
    they raise ``TypeError``.
    """

    __slots__ = ("_proto",)

    def __init__(self, proto: filter_pb2.Filter) -> None:
        """For a filter made elsewhere; it must not change afterwards. Otherwise start from ``Field``."""
        self._proto = proto

    def to_proto(self) -> filter_pb2.Filter:
        """A copy of the filter as the wire has it."""
        proto = filter_pb2.Filter()
        proto.CopyFrom(self._proto)
        return proto

    def __and__(self, other: Filter) -> Filter:
        if not isinstance(other, Filter):
            return NotImplemented
        parts = [*_parts(self._proto, "all_of"), *_parts(other._proto, "all_of")]
        return Filter(filter_pb2.Filter(all_of=filter_pb2.AllOf(filters=parts)))

    def __or__(self, other: Filter) -> Filter:
        if not isinstance(other, Filter):
            return NotImplemented
        parts = [*_parts(self._proto, "any_of"), *_parts(other._proto, "any_of")]
        return Filter(filter_pb2.Filter(any_of=filter_pb2.AnyOf(filters=parts)))

    def __invert__(self) -> Filter:
        return Filter(filter_pb2.Filter(negation=self._proto))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._proto == other._proto

    def __hash__(self) -> int:
        return hash(self._proto.SerializeToString(deterministic=True))

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "a filter has no truth value here: use &, | and ~, and .between() instead of chained comparisons"
        )

    def __repr__(self) -> str:
        return f"<Filter {_text(self._proto)}>"


class Field:
    """A metadata field to compare: ``Field("year")``, nested ``Field("author.name")`` or ``Field("author")["name"]``.

    In the constructor's path a dot goes one object deeper, and a backslash before a dot or backslash takes it
    literally; a key in square brackets is always literal.
    """

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __getitem__(self, key: str) -> Field:
        literal = key.replace("\\", "\\\\").replace(".", "\\.")
        return Field(f"{self.path}.{literal}")

    # Comparisons build filters instead of answering, which object's signatures do not foresee.
    def __eq__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return Filter(filter_pb2.Filter(equals=filter_pb2.Equals(field=self.path, value=_scalar(value, self.path))))

    def __ne__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return ~(self == value)

    def __gt__(self, value: str | float) -> Filter:
        return self._range(filter_pb2.Range(field=self.path, gt=_bound(value, self.path)))

    def __ge__(self, value: str | float) -> Filter:
        return self._range(filter_pb2.Range(field=self.path, gte=_bound(value, self.path)))

    def __lt__(self, value: str | float) -> Filter:
        return self._range(filter_pb2.Range(field=self.path, lt=_bound(value, self.path)))

    def __le__(self, value: str | float) -> Filter:
        return self._range(filter_pb2.Range(field=self.path, lte=_bound(value, self.path)))

    __hash__ = None  # type: ignore[assignment]

    def between(self, lower: str | float, upper: str | float) -> Filter:
        """True when the field is within the bounds, both included. Both must be numbers or both strings."""
        return self._range(
            filter_pb2.Range(field=self.path, gte=_bound(lower, self.path), lte=_bound(upper, self.path))
        )

    def is_in(self, values: Iterable[Scalar]) -> Filter:
        """True when the field is equal to one of 1 to 1,000 values."""
        if isinstance(values, str):
            raise InvalidFilter("is_in takes a list of values, not one string", field=self.path)
        scalars = [_scalar(value, self.path) for value in values]
        return Filter(filter_pb2.Filter(one_of=filter_pb2.OneOf(field=self.path, values=scalars)))

    def exists(self) -> Filter:
        """True when the field is present and not null."""
        return Filter(filter_pb2.Filter(exists=filter_pb2.Exists(field=self.path)))

    def contains(self, value: Scalar) -> Filter:
        """True when the field is a list with an element equal to the value."""
        return Filter(filter_pb2.Filter(contains=filter_pb2.Contains(field=self.path, value=_scalar(value, self.path))))

    def __repr__(self) -> str:
        return f"Field({self.path!r})"

    @staticmethod
    def _range(condition: filter_pb2.Range) -> Filter:
        return Filter(filter_pb2.Filter(range=condition))


def _parts(proto: filter_pb2.Filter, kind: str) -> Sequence[filter_pb2.Filter]:
    # a & b & c is one flat conjunction: depth is limited.
    if proto.WhichOneof("condition") != kind:
        return [proto]
    return proto.all_of.filters if kind == "all_of" else proto.any_of.filters


def _scalar(value: Scalar, path: str) -> filter_pb2.Scalar:
    if isinstance(value, bool):
        return filter_pb2.Scalar(bool_value=value)
    if isinstance(value, str):
        try:
            return filter_pb2.Scalar(string_value=value)
        except UnicodeEncodeError as error:
            raise InvalidFilter(f"the text is not valid Unicode at character {error.start}", field=path) from error
    if isinstance(value, int | float):
        if isinstance(value, int) and abs(value) > EXACT_INTEGER:
            raise InvalidFilter(f"{value} is too large to be compared exactly; store it as a string", field=path)
        if not math.isfinite(value):
            raise InvalidFilter("numbers in a filter must be finite", field=path)
        return filter_pb2.Scalar(number_value=value)
    if value is None:
        raise InvalidFilter("null cannot be compared with; use ~Field(...).exists()", field=path)
    raise InvalidFilter(f"a filter compares with str, int, float or bool, not {type(value).__name__}", field=path)


def _bound(value: str | float, path: str) -> filter_pb2.Scalar:
    if isinstance(value, bool):
        raise InvalidFilter("bools have no order", field=path)
    return _scalar(value, path)


_RANGE_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _text(proto: filter_pb2.Filter) -> str:
    kind = proto.WhichOneof("condition")
    if kind in ("all_of", "any_of"):
        sign = " & " if kind == "all_of" else " | "
        return "(" + sign.join(_text(part) for part in _parts(proto, kind)) + ")"
    if kind == "negation":
        return f"~{_text(proto.negation)}"
    if kind == "equals":
        return f"{proto.equals.field} == {_value(proto.equals.value)!r}"
    if kind == "one_of":
        return f"{proto.one_of.field} in {[_value(value) for value in proto.one_of.values]!r}"
    if kind == "contains":
        return f"{_value(proto.contains.value)!r} in {proto.contains.field}"
    if kind == "exists":
        return f"{proto.exists.field} exists"
    bounds = [
        f"{proto.range.field} {sign} {_value(getattr(proto.range, name))!r}"
        for name, sign in _RANGE_SIGNS.items()
        if proto.range.HasField(name)  # type: ignore[arg-type]
    ]
    return " & ".join(bounds)


def _value(scalar: filter_pb2.Scalar) -> Scalar | None:
    kind = scalar.WhichOneof("value")
    return None if kind is None else getattr(scalar, kind)
