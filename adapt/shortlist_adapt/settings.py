"""Settings of the steps: how a field is declared, and how settings go to JSON and come back checked.

Each step has a frozen dataclass of settings whose fields all have defaults, made by ``setting``. The plan, the options
of the commands and the documentation are made from these fields. A field is of type bool, int, float, str, Path, an
enumeration of strings, a Literal of strings, a tuple of one of these, one of these or None, or further settings.
Pure functions; any thread.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from shortlist_adapt.errors import InvalidInput

S = TypeVar("S")


def setting(default: Any, help: str, *, least: float = -math.inf, most: float = math.inf) -> Any:
    """A field of settings: its default, one sentence of help, and the range of a number."""
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most})


def nested(kind: type[Any]) -> Any:
    """A field that holds further settings, by default those of ``kind``."""
    return dataclasses.field(default_factory=kind)


def to_json(settings: Any) -> dict[str, Any]:
    """The settings as JSON values, in the order of the fields."""
    return {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}


def from_json(kind: type[S], values: object, where: str = "") -> S:
    """Settings from JSON values; fields that are absent take their defaults.

    Raises:
        InvalidInput: a name is unknown, or a value has the wrong type or is out of its range. ``where`` begins the
            path that the message names, as in "mining.negatives".
    """
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{where or 'the settings'}: not a JSON object")
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    if unknown := values.keys() - known.keys():
        raise InvalidInput(f"{_path(where, min(unknown))} is no setting; there are: {', '.join(known)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], known[name], value, _path(where, name)) for name, value in values.items()})


def changed(settings: S, values: Mapping[str, Any], where: str = "") -> S:
    """The settings with some values replaced, by path, as in {"lora.rank": 8}. Raises ``InvalidInput``."""
    plain = to_json(settings)
    for path, value in values.items():
        place, names = plain, path.split(".")
        for name in names[:-1]:
            place = place[name] if isinstance(place.get(name), dict) else {}
        if names[-1] not in place:
            raise InvalidInput(f"{_path(where, path)} is no setting; there are: {', '.join(paths(settings))}")
        place[names[-1]] = _plain(value)
    return from_json(type(settings), plain, where)


def paths(settings: Any) -> list[str]:
    """The path of every value, as in "lora.rank"."""
    found: list[str] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        inner = dataclasses.is_dataclass(value)
        found += [f"{field.name}.{path}" for path in paths(value)] if inner else [field.name]
    return found


def from_text(settings: Any, path: str, text: str) -> Any:
    """The value that ``text`` stands for at a path: "8", "0.1", "true", "none", or "a,b" for a tuple.

    Raises:
        InvalidInput: there is no such path, or the text is no value of its type.
    """
    place = settings
    *above, name = path.split(".")
    for step in above:
        place = getattr(place, step, None) if dataclasses.is_dataclass(place) else None
    known = {field.name for field in dataclasses.fields(place)} if dataclasses.is_dataclass(place) else set()
    if name not in known or dataclasses.is_dataclass(getattr(place, name)):
        raise InvalidInput(f"{path} is no setting; there are: {', '.join(paths(settings))}")
    return _read(typing.get_type_hints(type(place))[name], text, path)


def inner_type(hint: Any) -> tuple[Any, bool, bool]:
    """The plain type of a field's type, whether it is a tuple of it, and whether it may be None."""
    optional = False
    if get_origin(hint) in {typing.Union, types.UnionType}:
        (hint,) = (one for one in get_args(hint) if one is not type(None))
        optional = True
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True, optional
    return hint, False, optional


def choices(hint: Any) -> list[str] | None:
    """The texts that a plain type allows; None where any value of it will do."""
    if typing.get_origin(hint) is typing.Literal:
        return list(get_args(hint))
    return [str(member.value) for member in hint] if _is_enum(hint) else None


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _value(hint: Any, field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    plain, several, optional = inner_type(hint)
    if value is None and optional:
        return None
    if dataclasses.is_dataclass(plain) and not several:
        return from_json(typing.cast(type[Any], plain), value, where)
    if several:
        if not isinstance(value, list | tuple):
            raise InvalidInput(f"{where}: not a list")
        return tuple(_one(plain, field, item, where) for item in value)
    return _one(plain, field, value, where)


def _one(plain: Any, field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(plain):
        return from_json(typing.cast(type[Any], plain), value, where)
    allowed = choices(plain)
    if allowed is not None:
        if value not in allowed:
            raise InvalidInput(f"{where}: {value!r} is not one of {', '.join(allowed)}")
        return plain(value) if _is_enum(plain) else value
    expected: tuple[type, ...] = {float: (int, float), Path: (str,)}.get(plain, (plain,))
    if not isinstance(value, expected) or (isinstance(value, bool) and plain is not bool):
        raise InvalidInput(f"{where}: {value!r} is not of the type {plain.__name__}")
    if plain in {int, float}:
        least, most = field.metadata.get("least", -math.inf), field.metadata.get("most", math.inf)
        if not least <= value <= most:
            raise InvalidInput(f"{where}: {value!r} is not between {least:g} and {most:g}")
    return plain(value)


def _read(hint: Any, text: str, where: str) -> Any:
    plain, several, optional = inner_type(hint)
    if optional and text.lower() in {"", "none"}:
        return None
    if several:
        return tuple(_read(plain, part.strip(), where) for part in text.split(",") if part.strip())
    if choices(plain) is not None:
        return text
    readers: dict[Any, Callable[[str], Any]] = {bool: _switch, int: int, float: float, Path: Path, str: str}
    try:
        return readers[plain](text)
    except (KeyError, ValueError) as error:
        raise InvalidInput(f"{where}: {text!r} is not of the type {plain.__name__}") from error


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]
