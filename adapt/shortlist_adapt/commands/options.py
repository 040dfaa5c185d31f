"""Options that the steps share: the run folder, the settings of a step, and ``--estimate``."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from shortlist_adapt.folder import RunFolder
from shortlist_adapt.settings import choices, inner_type

F = TypeVar("F", bound=Callable[..., Any])

_SEPARATOR = "__"


class _Folder(click.ParamType[RunFolder]):
    name = "folder"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RunFolder:
        return value if isinstance(value, RunFolder) else RunFolder(Path(value))


run_argument = click.argument("folder", metavar="RUN", type=_Folder())
"""The folder of a run that was begun, as the parameter ``folder``."""

out_option = click.option(
    "--out", "folder", metavar="RUN", required=True, type=_Folder(), help="Folder of the run; made when missing."
)
"""The folder of a run to begin or go on with, as the parameter ``folder``."""

seed_option = click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of every random choice; 0 at first.")

estimate_option = click.option("--estimate", is_flag=True, help="Say what the step would cost, and end.")


def settings_options(kind: type[Any]) -> Callable[[F], F]:
    """Adds an option for each value of a step's settings; ``chosen`` takes them out again.

    The setting ``lora.rank`` has the option ``--lora-rank``. Nothing is preset: what is not given stays as the plan
    has it.
    """

    def add(command: F) -> F:
        for option in reversed(_options(kind, ())):
            command = option(command)
        return command

    return add


def chosen(kind: type[Any], options: dict[str, Any]) -> Mapping[str, Any]:
    """Removes the options of a step's settings; returns the values that were given, by path."""
    values = {}
    for path in _paths(kind):
        value = options.pop(_SEPARATOR.join(path))
        if value is not None and value != ():
            values[".".join(path)] = value
    return values


def _fields(kind: type[Any]) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind)]


def _paths(kind: type[Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field, hint in _fields(kind):
        inner = _paths(typing.cast(type[Any], hint)) if dataclasses.is_dataclass(hint) else [()]
        found += [(field.name, *path) for path in inner]
    return found


def _options(kind: type[Any], above: tuple[str, ...]) -> list[Callable[[Any], Any]]:
    options: list[Callable[[Any], Any]] = []
    for field, hint in _fields(kind):
        path = (*above, field.name)
        if dataclasses.is_dataclass(hint):
            options += _options(typing.cast(type[Any], hint), path)
        else:
            options.append(_option(field, hint, path))
    return options


def _option(field: dataclasses.Field[Any], hint: Any, path: tuple[str, ...]) -> Callable[[Any], Any]:
    plain, several, _ = inner_type(hint)
    flag, name = "-".join(path).replace("_", "-"), _SEPARATOR.join(path)
    text = f"{field.metadata['help']}{_default(field.default, several=several)}"
    if plain is bool:
        return click.option(f"--{flag}/--no-{flag}", name, default=None, help=text)
    return click.option(f"--{flag}", name, type=_type(plain), multiple=several, help=text)


def _type(plain: Any) -> Any:
    allowed = choices(plain)
    if allowed is not None:
        return click.Choice(allowed)
    # In full, because a later step may run in another folder.
    return click.Path(path_type=Path, resolve_path=True) if plain is Path else plain


def _default(value: Any, *, several: bool) -> str:
    if value in (None, (), "") or value is dataclasses.MISSING:
        return "  [repeatable]" if several else ""
    if isinstance(value, bool):
        return f"  [default: {'on' if value else 'off'}]"
    if several:
        return f"  [repeatable; default: {', '.join(map(str, value))}]"
    return f"  [default: {value:g}]" if isinstance(value, float) else f"  [default: {value}]"
