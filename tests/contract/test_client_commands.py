"""The command line: every command says what it does, and ``serve`` has the server's settings, all of them."""

import dataclasses
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shortlist_cli import main
from shortlist_cli.group import COMMANDS, cli
from shortlist_cli.hosting import serve
from shortlist_cli.hosting.serve import flag_of, serve_command
from shortlist_server.config import Config
from shortlist_server.errors import ModelNotFound


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        assert one.help, f"{name} {one.name}"
        for parameter in one.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {one.name} {parameter.name}"


def test_the_help_lists_commands_without_importing_them() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    for name, (_, line) in COMMANDS.items():
        assert name in result.output
        assert line in result.output


def test_serve_has_an_option_for_every_setting() -> None:
    options = {option.name: option for option in serve_command.params if isinstance(option, click.Option)}
    for field in dataclasses.fields(Config):
        option = options[field.name]
        assert option.help == field.metadata["help"]
        assert option.envvar == f"SHORTLIST_{field.name.upper()}"
        assert flag_of(field.name, repeatable=isinstance(field.default, tuple)) in option.opts
    assert options.keys() - {field.name for field in dataclasses.fields(Config)} == {"config_file"}


@pytest.fixture
def run_config(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What ``serve`` would run."""
    configs: list[Config] = []
    monkeypatch.setattr("shortlist_server.app.run", configs.append)
    return configs


def test_without_anything_serve_runs_the_defaults(run_config: list[Config]) -> None:
    result = CliRunner().invoke(cli, ["serve"])
    assert result.exit_code == 0, result.output
    assert run_config == [Config()]


def test_a_flag_goes_before_the_environment_and_that_before_the_file(run_config: list[Config], tmp_path: Path) -> None:
    file = tmp_path / "shortlist.toml"
    file.write_text('log_level = "error"\ndtype = "float32"\ndevice = "cuda"\nembedders = ["hashing", "a=b"]\n')
    env = {"SHORTLIST_LOG_LEVEL": "debug", "SHORTLIST_DTYPE": "bfloat16"}
    result = CliRunner().invoke(cli, ["serve", "--config", str(file), "--log-level", "warning"], env=env)
    assert result.exit_code == 0, result.output
    (config,) = run_config
    assert (config.log_level, config.dtype, config.device) == ("warning", "bfloat16", "cuda")
    assert config.embedders == ("hashing", "a=b")


def test_repeatable_settings_and_switches_reach_the_server(run_config: list[Config]) -> None:
    result = CliRunner().invoke(cli, ["serve", "--embedder", "hashing", "--embedder", "x=y", "--no-reflection"])
    assert result.exit_code == 0, result.output
    assert run_config[0].embedders == ("hashing", "x=y")
    assert run_config[0].reflection is False


def test_without_click_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shortlist_cli.group")
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit, match=r"pip install 'shortlist\[cli\]'"):
        main()


def test_without_the_server_serve_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("shortlist_server", "shortlist_server.app", "shortlist_server.config"):
        monkeypatch.setitem(sys.modules, module, None)
    result = CliRunner().invoke(serve._command(), ["--embedder", "hashing"])
    assert result.exit_code == 1
    assert "pip install 'shortlist[server]'" in result.output


def test_without_the_server_a_folder_cannot_be_verified_and_what_to_install_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("shortlist_server", "shortlist_server.config"):
        monkeypatch.setitem(sys.modules, module, None)
    result = CliRunner().invoke(cli, ["verify", str(tmp_path)])
    assert result.exit_code == 1
    assert "pip install 'shortlist[server]'" in result.output


def test_a_server_that_cannot_start_says_why_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config) -> None:
        raise ModelNotFound("there is no model of that name")

    monkeypatch.setattr("shortlist_server.app.run", fail)
    result = CliRunner().invoke(cli, ["serve"])
    assert (result.exit_code, result.output) == (1, "Error: there is no model of that name\n")


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shortlist.toml"
    file.write_text("prot = 1\n")
    result = CliRunner().invoke(cli, ["serve", "--config", str(file)])
    assert result.exit_code == 2
    assert "unknown settings: prot" in result.output
