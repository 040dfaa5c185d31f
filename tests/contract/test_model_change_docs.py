"""``docs/model-change.md`` names commands, options and errors that there are."""

import re
from pathlib import Path

import click
import pytest

import shortlist
from shortlist_cli.group import cli

PAGE = (Path(__file__).parents[2] / "docs" / "model-change.md").read_text()

LINES = re.findall(r"^    shortlist (.+)$", PAGE, re.MULTILINE)


def command_of(words: list[str]) -> click.Command:
    """The command that the words call; a subcommand of a group if they name one."""
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None, words
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words[1])
        assert command is not None, words
    return command


@pytest.mark.parametrize("line", LINES)
def test_every_command_has_the_options_that_the_page_gives_it(line: str) -> None:
    command = command_of(line.split())
    known = {flag for parameter in command.params for flag in parameter.opts}
    assert set(re.findall(r"(--[a-z-]+)", line)) <= known


def test_every_command_of_the_group_is_on_the_page() -> None:
    group = cli.get_command(click.Context(cli), "reindex")
    assert isinstance(group, click.Group)
    assert len(LINES) >= 10
    assert [name for name in group.commands if not re.search(rf"\b{name}\b", PAGE)] == []


def test_every_program_compiles_and_every_error_exists() -> None:
    for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        compile(program, "model-change.md", "exec")
    errors = set(re.findall(r"`(Generation[A-Z]\w+)`", PAGE))
    assert errors
    assert errors <= set(shortlist.__all__)
