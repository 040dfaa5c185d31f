"""Every command line in the documentation is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from shortlist_cli.group import cli
from shortlist_cli.hosting.serve import serve_command

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
LINES = sorted(
    {
        line
        for path in DOCUMENTS
        for found in re.findall(r"^(?:\$ | {4})?(shortlist [a-z].*)$|`(shortlist [a-z][^`]*)`", path.read_text(), re.M)
        for line in found
        if line
    }
)


def test_there_are_command_lines() -> None:
    assert len(LINES) > 25


def flags_of(command: click.Command) -> set[str]:
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("line", LINES)
def test_a_documented_command_exists_with_its_flags(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        inner = command.get_command(click.Context(command), words[0])
        # `eval` alone means `eval run`.
        command, words = (inner, words[1:]) if inner is not None else (command.commands["run"], words)
    own, _, served = " ".join(words).partition(" -- ")
    assert {word.partition("=")[0] for word in own.split() if word.startswith("--")} <= flags_of(command)
    assert {word.partition("=")[0] for word in served.split() if word.startswith("--")} <= flags_of(serve_command)
