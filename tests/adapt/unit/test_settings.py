"""Settings: what goes to JSON comes back, and what is wrong is named by its path."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.settings import changed, from_json, from_text, nested, paths, setting, to_json


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rank: int = setting(8, "A rank.", least=1, most=64)
    names: tuple[str, ...] = setting(("a", "b"), "Names.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    rate: float = setting(0.1, "A rate.", least=0, most=1)
    on: bool = setting(True, "A switch.")
    path: Path | None = setting(None, "A file.")
    colour: Colour = setting(Colour.RED, "A colour.")
    kind: Literal["x", "y"] = setting("x", "A kind.")
    inner: Inner = nested(Inner)


def test_settings_survive_json() -> None:
    outer = Outer(rate=1, path=Path("f"), colour=Colour.BLUE, kind="y", inner=Inner(rank=3, names=()))
    assert to_json(outer) == {
        "rate": 1,
        "on": True,
        "path": "f",
        "colour": "blue",
        "kind": "y",
        "inner": {"rank": 3, "names": []},
    }
    assert from_json(Outer, to_json(outer)) == outer
    assert from_json(Outer, {}) == Outer()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, "step.rat is no setting; there are: rate, on"),
        ({"rate": 2}, "step.rate: 2 is not between 0 and 1"),
        ({"rate": float("nan")}, "step.rate: nan is not between"),
        ({"rate": "high"}, "step.rate: 'high' is not of the type float"),
        ({"on": 1}, "step.on: 1 is not of the type bool"),
        ({"inner": {"rank": True}}, "step.inner.rank: True is not of the type int"),
        ({"inner": {"names": "a"}}, "step.inner.names: not a list"),
        ({"inner": 3}, "step.inner: not a JSON object"),
        ({"colour": "green"}, "step.colour: 'green' is not one of red, blue"),
        ({"kind": "z"}, "step.kind: 'z' is not one of x, y"),
        ({"on": None}, "step.on: None is not of the type bool"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(values: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_json(Outer, values, "step")
    assert str(caught.value).startswith(message)


def test_values_are_changed_by_path() -> None:
    outer = changed(Outer(), {"inner.rank": 2, "path": Path("here"), "colour": Colour.BLUE})
    assert outer == Outer(path=Path("here"), colour=Colour.BLUE, inner=Inner(rank=2))
    for path in ("inner.size", "size", "inner.rank.size"):
        with pytest.raises(InvalidInput, match=r"is no setting; there are: rate, on, path, colour, kind, inner\.rank"):
            changed(outer, {path: 1})


def test_text_is_read_as_the_type_of_its_setting() -> None:
    assert from_text(Outer(), "inner.rank", "12") == 12
    assert from_text(Outer(), "inner.names", "a, b") == ("a", "b")
    assert from_text(Outer(), "on", "False") is False
    assert from_text(Outer(), "path", "none") is None
    assert from_text(Outer(), "path", "a/b") == Path("a/b")
    with pytest.raises(InvalidInput, match=r"inner\.size is no setting; there are: rate, .*, inner\.rank"):
        from_text(Outer(), "inner.size", "1")
    for path, text in (("on", "maybe"), ("inner.rank", "1.5"), ("inner", "1"), ("size", "1")):
        with pytest.raises(InvalidInput):
            from_text(Outer(), path, text)


def test_paths_name_every_value() -> None:
    assert paths(Outer()) == ["rate", "on", "path", "colour", "kind", "inner.rank", "inner.names"]
