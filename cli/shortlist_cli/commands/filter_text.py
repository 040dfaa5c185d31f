"""Filters as text, for ``--filter``: ``year>=2020``, ``lang=en``, ``tags~python``, ``lang in en,de``.

Pure functions. A number, true, false or a quoted string is read as JSON; any other value is text. An exclamation mark
in front negates. "and" joins several filters.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import click

from shortlist import Field, Filter, InvalidFilter, Scalar

SYNTAX = 'FIELD OP VALUE with =, !=, <, <=, >, >= or ~ (a list contains); "FIELD in A,B"; "FIELD exists"; ! negates.'
"""The syntax in one line, for the help."""

_COMPARISON = re.compile(r"\s*(?P<field>[^=!<>~]+?)\s*(?P<op>==|!=|<=|>=|=|<|>|~)\s*(?P<value>.*)", re.DOTALL)
_IN = re.compile(r"\s*(?P<field>\S+)\s+in\s+(?P<values>.+)", re.DOTALL)
_EXISTS = re.compile(r"\s*(?P<field>\S+)\s+exists\s*")

_OPERATORS: dict[str, Callable[[Field, Any], Filter]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": Field.contains,
}


def parse_filters(texts: Iterable[str]) -> Filter | None:
    """All filters joined by "and"; None without filters.

    Raises:
        click.BadParameter: one is not a filter.
    """
    filters = [parse_filter(text) for text in texts]
    return functools.reduce(operator.and_, filters) if filters else None


def parse_filter(text: str) -> Filter:
    """One filter.

    Raises:
        click.BadParameter: the text is not a filter.
    """
    try:
        if text.lstrip().startswith("!"):
            return ~parse_filter(text.lstrip()[1:])
        if match := _EXISTS.fullmatch(text):
            return Field(match["field"]).exists()
        if match := _IN.fullmatch(text):
            return Field(match["field"]).is_in([_value(value) for value in match["values"].split(",")])
        if match := _COMPARISON.fullmatch(text):
            return _OPERATORS[match["op"]](Field(match["field"]), _value(match["value"]))
    except InvalidFilter as error:
        raise click.BadParameter(f"{text!r}: {error.message}") from error
    raise click.BadParameter(f"{text!r} is not a filter; write {SYNTAX}")


def _value(text: str) -> Scalar:
    text = text.strip()
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


filter_option = click.option(
    "--filter",
    "-f",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help=f"Only documents whose metadata passes; repeatable. {SYNTAX}",
)
"""Adds ``--filter``; the command gets ``filters``, for ``parse_filters``."""
