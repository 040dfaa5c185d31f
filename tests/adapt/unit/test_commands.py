"""The commands: what they import, what they are called, and how they end."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner

from shortlist_adapt.commands.group import COMMANDS, AdaptGroup, adapt_group
from shortlist_adapt.commands.options import chosen, settings_options
from shortlist_adapt.errors import BudgetSpent, GateRefused, InvalidInput
from shortlist_adapt.settings import nested, setting
from shortlist_cli.group import cli

HEAVY = {"torch", "transformers", "sentence_transformers", "datasets", "peft", "openai", "scipy"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, ["adapt", name, "--help"])
    assert result.exit_code == 0, result.output
    command = adapt_group.get_command(click.Context(adapt_group), name)
    assert command is not None
    assert command.name == name
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name}"


def test_help_imports_nothing_that_trains() -> None:
    program = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from shortlist_cli.group import cli\n"
        "from shortlist_adapt.commands.group import COMMANDS\n"
        "for words in [[], *([name] for name in COMMANDS)]:\n"
        "    result = CliRunner().invoke(cli, ['adapt', *words, '--help'])\n"
        "    assert result.exit_code == 0, result.output\n"
        f"    assert not {HEAVY} & set(sys.modules), (words, {HEAVY} & set(sys.modules))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("error", "code", "output"),
    [
        (InvalidInput("plan.json is missing"), 1, "Error: plan.json is missing\n"),
        (BudgetSpent("all used"), 1, "Error: all used\n"),
        (GateRefused("not better"), 4, "Error: not better\n"),
        (ModuleNotFoundError("no", name="peft.tuners"), 1, "needs more libraries: pip install 'shortlist[adapt]'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, output: str
) -> None:
    @click.command("step")
    def step() -> None:
        raise error

    module = ModuleType("shortlist_of_one_step")
    module.step = step  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    @click.group(cls=AdaptGroup, package="", lazy={"step": (f"{module.__name__}:step", "A step.")})
    def group() -> None: ...

    result = CliRunner().invoke(group, ["step"])
    assert result.exit_code == code
    assert output in result.output


def test_an_error_in_the_program_itself_is_not_hidden() -> None:
    @click.group(cls=AdaptGroup, package="shortlist_adapt", lazy={"step": ("missing:step", "A step.")})
    def group() -> None: ...

    assert isinstance(CliRunner().invoke(group, ["step"]).exception, ModuleNotFoundError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rank: int = setting(8, "A rank.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    learning_rate: float = setting(0.00005, "A rate.")
    early: bool = setting(True, "A switch.")
    files: tuple[Path, ...] = setting((), "Some files.")
    lora: Inner = nested(Inner)


def given(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    @click.command()
    @settings_options(Settings)
    def command(**options: Any) -> None:
        found.update(chosen(Settings, options))
        assert options == {}

    result = CliRunner().invoke(command, list(words))
    assert result.exit_code == 0, result.output
    return found


def test_options_are_made_of_settings_and_only_those_given_come_back() -> None:
    assert given() == {}
    assert given("--learning-rate", "0.1", "--no-early", "--lora-rank", "4") == {
        "learning_rate": 0.1,
        "early": False,
        "lora.rank": 4,
    }
    assert given("--files", "a", "--files", "/b") == {"files": (Path("a").resolve(), Path("/b"))}


def test_the_help_of_an_option_says_its_default() -> None:
    @click.command()
    @settings_options(Settings)
    def command(**options: Any) -> None: ...

    output = CliRunner().invoke(command, ["--help"], terminal_width=120).output
    for line in ("A rate.  [default: 5e-05]", "A switch.  [default: on]", "Some files.  [repeatable]", "--lora-rank"):
        assert line in output


def test_a_folder_without_a_run_says_how_to_begin_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["adapt", "mine", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "has no run: begin one with 'shortlist adapt run'" in result.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mining.negatives", "'mining.negatives' is not STEP.SETTING=VALUE"),
        ("mining.size=3", "mining.size is no setting"),
        ("mining.negatives=many", "mining.negatives: 'many' is not of the type int"),
        ("mining.negatives=0", "mining.negatives: 0 is not between 1 and 100"),
    ],
)
def test_a_wrong_setting_of_a_run_is_named_before_the_server_is_asked(
    tmp_path: Path, change: str, message: str
) -> None:
    words = ["adapt", "run", "books", "--out", str(tmp_path / "run"), "--target", "127.0.0.1:1", "--set", change]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert message in result.output
