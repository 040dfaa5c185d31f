"""What the documentation lists is what the code has."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import click
import pytest

from shortlist_cli.group import COMMANDS
from shortlist_cli.hosting.serve import serve_command
from shortlist_server.config import Config

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def settings_table() -> str:
    """The table of docs/configuration.md, made from the fields of ``Config`` and the options of serve."""
    options = {parameter.name: parameter for parameter in serve_command.params}
    rows = ["| setting | flag | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(Config):
        option = options[field.name]
        assert isinstance(option, click.Option)
        assert option.envvar == f"SHORTLIST_{field.name.upper()}"
        flags = " ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
        rows.append(f"| `{field.name}` | {flags} | {_default(field.default)} | {field.metadata['help']} |")
    return "\n".join(rows)


def _default(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_documented_settings_are_those_of_the_server() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    table = settings_table()
    assert table in text, f"put this table into docs/configuration.md:\n\n{table}"


def test_every_setting_has_a_flag_and_every_flag_but_one_a_setting() -> None:
    names = {field.name for field in dataclasses.fields(Config)}
    assert {parameter.name for parameter in serve_command.params} == names | {"config_file"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


def test_the_readme_names_commands_and_verbs_that_exist() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) <= verbs
    (listed,) = re.findall(r"`shortlist --help`: (.*?); each", (ROOT / "README.md").read_text(), re.DOTALL)
    assert set(re.findall(r"`([a-z]+)`", listed)) <= set(COMMANDS)


def drawing(heading: str) -> list[str]:
    """The layers of the indented drawing under a heading of docs/architecture.md, written as import contracts are."""
    _, _, text = (ROOT / "docs" / "architecture.md").read_text().partition(heading)
    lines = [line.strip() for line in re.findall(r"((?:^ {4}.*\n)+)", text, re.MULTILINE)[0].splitlines()]
    return [re.split(r" {2,}", line)[0].replace(",", " :") for line in lines]


@pytest.mark.parametrize(
    ("heading", "package", "undrawn"),
    [
        ("## Rooms of the server\n", "shortlist_server", ["testing"]),
        ("Storage has rooms of its own", "shortlist_server.storage", []),
        ("Adaptation's rooms:", "shortlist_adapt", []),
    ],
    ids=["server", "storage", "adaptation"],
)
def test_the_drawn_rooms_are_those_of_the_import_contracts_and_of_the_folders(
    heading: str, package: str, undrawn: list[str]
) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [
        [layer.replace(f"{package}.", "") for layer in contract["layers"]]
        for contract in contracts
        if contract["type"] == "layers" and contract["layers"][0].rpartition(".")[0] == package
    ]
    assert [[*undrawn, *drawing(heading)]] == layers
    folder = ROOT / ("adapt" if package == "shortlist_adapt" else "server") / package.replace(".", "/")
    rooms = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(re.findall(r"[a-z_]+", " ".join(layers[0]))) == rooms - {"__init__"}


def test_architecture_names_files_and_folders_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"(?<![\w/.])[a-z_]+(?:/[a-z_]+)+(?:\.py)?", text))
    assert len(named) > 20
    roots = (ROOT, ROOT / "server" / "shortlist_server")
    missing = [
        name for name in named if not any((root / f"{name}{end}").exists() for root in roots for end in ("", ".py"))
    ]
    assert missing == []


def test_durability_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "durability.md").read_text()
    sources = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert len(files) > 10
    assert [file for file in files if ROOT / file not in sources] == []
    names = {path.name for path in sources}
    assert set(re.findall(r"`(test_\w+\.py)`", text)) <= names
    code = "".join(sources.values())
    assert [test for test in re.findall(r"`(test_\w+)`", text) if f"def {test}(" not in code] == []


def test_the_image_is_built_from_every_package_of_the_wheel() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert [package for package in packages if f"!{package}" not in allowed] == []


def test_torch_is_pinned_to_a_version_without_a_local_suffix() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    assert sum(pin.startswith("torch==") for pin in pins) == 1
