"""``docs/client.md`` is about the client that there is."""

import inspect
import re
from pathlib import Path

import pytest

import shortlist
from shortlist import Client

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()

PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_compiles_and_imports_what_exists(program: str) -> None:
    compile(program, "client.md", "exec")
    for names in re.findall(r"from shortlist import ([\w, ]+)", program):
        for name in names.split(", "):
            assert name in shortlist.__all__


def test_every_method_of_the_client_is_on_the_page() -> None:
    methods = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]
    methods.remove("close")
    assert {"search", "verify", "ready"} <= set(methods)
    assert not [name for name in methods if not re.search(rf"\b{name}\b", PAGE)]


UNSAID = {"Cancelled", "Unimplemented", "SequenceNotReached", "ResourceExhausted"}
"""Errors that the page leaves to their own docstrings."""


def test_every_other_error_is_on_the_page() -> None:
    errors: list[type[shortlist.ShortlistError]] = [
        shortlist.ShortlistError,
        *shortlist.ShortlistError.__subclasses__(),
    ]
    for error in errors:
        names = {error.__name__, *(kind.__name__ for kind in error.__subclasses__())}
        assert names & UNSAID or any(name in PAGE for name in names), error
