"""Filters as parameterised SQL over the stored metadata.

No part of a request becomes SQL text: values and JSON paths are parameters. Only the fields that a collection declared
appear as quoted literals, because SQLite uses an expression index only for the literal expression. A leaf may evaluate
to NULL, which counts as false, also under a negation. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shortlist_server.domain import (
    AllOf,
    AnyOf,
    Contains,
    Equals,
    Exists,
    Filter,
    Negation,
    OneOf,
    Range,
    Scalar,
)
from shortlist_server.errors import InvalidFilter
from shortlist_server.storage.rows.metadata import escape_value, json_path

_MAX_DEPTH = 64
_NUMBER = "IN ('integer', 'real')"


@dataclass(frozen=True, slots=True)
class Condition:
    """A SQL expression over ``documents`` and the values of its placeholders, in order."""

    sql: str
    parameters: tuple[str | float, ...]


def compile_filter(filter: Filter, declared: Collection[tuple[str, ...]] = ()) -> Condition:
    """The condition under which a document passes.

    Args:
        filter: the filter.
        declared: paths that have an expression index.

    Raises:
        InvalidFilter: the filter is nested too deep; a conjunction, disjunction or list is empty; bounds are missing or
            of two types; or a number is not finite.
    """
    return _compile(filter, frozenset(declared), 0)


def cache_key(filter: Filter) -> str:
    """A text that is equal only for equal filters. It distinguishes 1 from True, which comparing filters does not."""
    return repr(filter)


def literal_path(path: tuple[str, ...]) -> str:
    """The JSON path as a SQL string literal. Double quotes in keys are escaped already; single quotes are doubled."""
    return "'" + json_path(path).replace("'", "''") + "'"


def index_columns(path: tuple[str, ...]) -> str:
    """The column list of the expression index of a declared field."""
    literal = literal_path(path)
    return f"json_type(metadata, {literal}), json_extract(metadata, {literal})"


def _compile(filter: Filter, declared: frozenset[tuple[str, ...]], depth: int) -> Condition:
    if depth > _MAX_DEPTH:
        raise InvalidFilter(f"the filter is nested more than {_MAX_DEPTH} levels deep")
    match filter:
        case AllOf(filters):
            return _join(" AND ", [_compile(part, declared, depth + 1) for part in filters])
        case AnyOf(filters):
            return _join(" OR ", [_compile(part, declared, depth + 1) for part in filters])
        case Negation(part):
            inner = _compile(part, declared, depth + 1)
            return Condition(f"NOT ifnull({inner.sql}, 0)", inner.parameters)
        case Equals(path, value):
            return _one_of(path, (value,), declared)
        case OneOf(path, values):
            return _one_of(path, values, declared)
        case Range():
            return _range(filter, declared)
        case Exists(path):
            place, parameters = _place(path, declared)
            return Condition(f"(json_type(metadata, {place}) <> 'null')", parameters)
        case Contains(path, value):
            return _contains(path, value, declared)
    raise InvalidFilter(f"unknown condition {type(filter).__name__}")


def _join(operator: str, parts: Sequence[Condition]) -> Condition:
    if not parts:
        raise InvalidFilter("all_of and any_of need at least one filter")
    # A balanced tree keeps SQLite's expression depth at the logarithm of the number of parts.
    while len(parts) > 1:
        parts = [
            parts[i]
            if i + 1 == len(parts)
            else Condition(
                f"({parts[i].sql}{operator}{parts[i + 1].sql})", parts[i].parameters + parts[i + 1].parameters
            )
            for i in range(0, len(parts), 2)
        ]
    return parts[0]


def _place(path: tuple[str, ...], declared: frozenset[tuple[str, ...]]) -> tuple[str, tuple[str, ...]]:
    if not path:
        raise InvalidFilter("a filter needs a field")
    return (literal_path(path), ()) if path in declared else ("?", (json_path(path),))


def _number(value: float) -> float:
    if not math.isfinite(value):
        raise InvalidFilter("a number in a filter must be finite")
    return float(value)


def _one_of(path: tuple[str, ...], values: tuple[Scalar, ...], declared: frozenset[tuple[str, ...]]) -> Condition:
    place, where = _place(path, declared)
    texts = [escape_value(value) for value in values if isinstance(value, str)]
    bools = sorted({"true" if value else "false" for value in values if isinstance(value, bool)})
    numbers = [_number(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    parts = []
    for test, operands in (("= 'text'", texts), (_NUMBER, numbers)):
        if operands:
            marks = ", ".join("?" * len(operands))
            sql = f"(json_type(metadata, {place}) {test} AND json_extract(metadata, {place}) IN ({marks}))"
            parts.append(Condition(sql, (*where, *where, *operands)))
    parts += [Condition(f"(json_type(metadata, {place}) = ?)", (*where, name)) for name in bools]
    if not parts:
        raise InvalidFilter("one_of needs at least one value")
    return _join(" OR ", parts)


def _range(filter: Range, declared: frozenset[tuple[str, ...]]) -> Condition:
    place, where = _place(filter.path, declared)
    bounds = [bound for bound in (filter.lower, filter.upper) if bound is not None]
    if not bounds:
        raise InvalidFilter("a range needs a bound")
    if any(isinstance(bound, bool) for bound in bounds) or len({isinstance(bound, str) for bound in bounds}) > 1:
        raise InvalidFilter("the bounds of a range must be two strings or two numbers")
    parts = [f"json_type(metadata, {place}) " + ("= 'text'" if isinstance(bounds[0], str) else _NUMBER)]
    parameters: list[str | float] = [*where]
    for bound, operator in (
        (filter.lower, ">=" if filter.lower_inclusive else ">"),
        (filter.upper, "<=" if filter.upper_inclusive else "<"),
    ):
        if bound is not None:
            parts.append(f"json_extract(metadata, {place}) {operator} ?")
            parameters += [*where, escape_value(bound) if isinstance(bound, str) else _number(bound)]
    return Condition("(" + " AND ".join(parts) + ")", tuple(parameters))


def _contains(path: tuple[str, ...], value: Scalar, declared: frozenset[tuple[str, ...]]) -> Condition:
    place, where = _place(path, declared)
    operands: tuple[str | float, ...]
    if isinstance(value, bool):
        test, operands = "type = ?", ("true" if value else "false",)
    elif isinstance(value, str):
        test, operands = "type = 'text' AND atom = ?", (escape_value(value),)
    else:
        test, operands = f"type {_NUMBER} AND atom = ?", (_number(value),)
    sql = (
        f"(json_type(metadata, {place}) = 'array'"  # noqa: S608 - place is "?" or a quoted literal
        f" AND EXISTS (SELECT 1 FROM json_each(documents.metadata, {place}) WHERE {test}))"
    )
    return Condition(sql, (*where, *where, *operands))
