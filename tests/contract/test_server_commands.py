"""The commands for those who run a server: ``config`` says what would be run and why, ``key`` makes keys."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shortlist_cli.group import cli
from shortlist_server.config import Config
from shortlist_server.keys import KeyRing, Scope


def run(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(cli, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_setting_is_printed_with_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('device = "cpu"\nlog_level = "error"\n')
    output = run("config", "--config", str(file), "--embedder", "hashing", SHORTLIST_LOG_LEVEL="debug")
    origins = {line.split(" = ")[0]: line.rpartition("# ")[2] for line in output.splitlines()}
    assert list(origins) == [field.name for field in dataclasses.fields(Config)]
    assert (origins.pop("embedders"), origins.pop("log_level"), origins.pop("device")) == (
        "flag",
        "environment",
        "file",
    )
    assert set(origins.values()) == {"default"}


def test_what_is_printed_is_a_file_of_settings_that_means_the_same(tmp_path: Path) -> None:
    output = run("config", "--embedder", "hashing", "--embedder", 'a="b"', "--no-reflection", "--drain-seconds", "3")
    file = tmp_path / "settings.toml"
    file.write_text(output)
    assert tomllib.loads(output)["embedders"] == ["hashing", 'a="b"']
    again = run("config", "--config", str(file))
    assert tomllib.loads(again) == tomllib.loads(output)
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in tomllib.loads(output).items()}
    assert Config(**settings).reflection is False


@pytest.mark.parametrize(("arguments", "scopes"), [((), {Scope.READ}), (("--scope", "write"), {Scope.WRITE})])
def test_a_made_key_opens_a_server_with_its_entry(arguments: tuple[str, ...], scopes: set[Scope]) -> None:
    secret, entry = run("key", "web", "--collection", "books*", *arguments).splitlines()
    key = KeyRing([entry], None).find(secret)
    assert key is not None
    assert (key.name, set(key.scopes), key.collections) == ("web", scopes, ("books*",))


def test_a_key_for_an_impossible_collection_is_refused() -> None:
    result = CliRunner().invoke(cli, ["key", "web", "--collection", "../etc"])
    assert result.exit_code == 1
    assert "cannot exist" in result.output


@pytest.mark.parametrize("command", ["serve", "worker", "config"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max-concurrent-rpcs", "-5"),
        ("max-concurrent-rpcs", "0"),
        ("drain-seconds", "nan"),
        ("max-deadline-seconds", "-1"),
        ("max-message-bytes", "99999999999"),
        ("health-interval-seconds", "0"),
        ("listen", "127.0.0.1:99999"),
        ("listen", "127.0.0.1"),
        ("listen", ""),
        ("metrics-listen", "127.0.0.1:99999"),
        ("metrics-listen", "9090"),
    ],
)
def test_a_setting_that_no_server_can_run_with_is_refused_by_name(command: str, setting: str, value: str) -> None:
    result = CliRunner().invoke(cli, [command, f"--{setting}", value])
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {setting.replace('-', '_')} is ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("data_dir = 5", "a string"),
        ("listen = [2]", "a string"),
        ("max_hits = 1.5", "an integer"),
        ("max_hits = true", "an integer"),
        ('drain_seconds = "5"', "a number"),
        ('reflection = "maybe"', "true or false"),
        ('embedders = "hashing"', "a list of strings"),
        ("embedders = [1]", "a list of strings"),
    ],
)
def test_a_setting_of_another_type_in_the_file_is_refused_by_name(tmp_path: Path, line: str, kind: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(line)
    result = CliRunner().invoke(cli, ["config", "--config", str(file)])
    assert result.exit_code == 2
    assert f"{line.split(maxsplit=1)[0]} must be {kind}, not " in result.output


def test_a_whole_number_in_the_file_will_do_where_seconds_are_meant(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("drain_seconds = 5")
    assert "drain_seconds = 5.0" in run("config", "--config", str(file))
