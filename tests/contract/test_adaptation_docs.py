"""``docs/adaptation.md`` names the steps, files and errors that there are."""

import importlib
import re
from pathlib import Path

import click

from shortlist_adapt.commands.group import COMMANDS
from shortlist_adapt.folder import RunFolder
from shortlist_cli.group import cli

PAGE = (Path(__file__).parents[2] / "docs" / "adaptation.md").read_text()


def test_every_step_is_on_the_page() -> None:
    assert [name for name in COMMANDS if f"shortlist adapt {name}" not in PAGE] == []


def test_every_option_that_the_page_names_is_one_of_a_step_or_of_run() -> None:
    group = cli.get_command(click.Context(cli), "adapt")
    assert isinstance(group, click.Group)
    known = {"--help", "--embedder"}  # the latter of `reindex run`
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        known |= {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    named = set(re.findall(r"(--[a-z][a-z-]+)", PAGE))
    assert {flag for flag in named if flag not in known} == set()


def test_every_file_of_a_run_is_on_the_page() -> None:
    folder = RunFolder(Path("run"))
    names = [
        value.name
        for name in dir(RunFolder)
        if not name.startswith("_") and isinstance(value := getattr(folder, name), Path) and name != "root"
    ]
    assert len(names) > 8
    assert [name for name in names if f"`{name}" not in PAGE] == []


def test_every_program_compiles_and_imports_what_there_is() -> None:
    for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        compile(program, "adaptation.md", "exec")
        for module, names in re.findall(r"^from (shortlist\w*[\w.]*) import (.+)$", program, re.MULTILINE):
            found = importlib.import_module(module)
            assert [name for name in names.split(", ") if not hasattr(found, name)] == []
    for module in re.findall(r"`((?:shortlist_adapt\.)?(?:mining|training|merging|synthesis)\.\w+)`", PAGE):
        importlib.import_module(f"shortlist_adapt.{module.removeprefix('shortlist_adapt.')}")
