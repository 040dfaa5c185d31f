"""Filters: trees of conditions on metadata."""

from __future__ import annotations

from dataclasses import dataclass

Scalar = str | float | bool
"""A value to compare with. Test for ``bool`` before number: True is not 1."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """True when all filters are true."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True when at least one filter is true."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """True when the filter is false."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class Equals:
    """True when the field is a scalar equal to the value."""

    path: tuple[str, ...]
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """True when the field is a scalar equal to one of the values."""

    path: tuple[str, ...]
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """True when the field has the type of the bounds, string or number, and lies within them."""

    path: tuple[str, ...]
    lower: str | float | None = None
    lower_inclusive: bool = True
    upper: str | float | None = None
    upper_inclusive: bool = True


@dataclass(frozen=True, slots=True)
class Exists:
    """True when the field is present and not null."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contains:
    """True when the field is a list with an element equal to the value."""

    path: tuple[str, ...]
    value: Scalar


Filter = AllOf | AnyOf | Negation | Equals | OneOf | Range | Exists | Contains
"""A condition on metadata. It is true or false: a leaf is false where the field is missing or has another type.

Hashable, for caching resolved filters. In Python ``1 == True``, so a cache key must tell them apart."""
