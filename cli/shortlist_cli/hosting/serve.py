"""``shortlist serve``: turns flags, environment and file into one ``Config`` and runs the server with it.

The options are made from the fields of ``Config`` and cannot disagree with it. A setting comes from its flag, else from
SHORTLIST_<FIELD>, else from the TOML file, else from its default; click keeps this order.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from shortlist_server.config import Config

MISSING_SERVER = "the server's libraries are not installed: pip install 'shortlist[server]'"

TYPES: dict[object, Any] = {
    str: str,
    int: int,
    float: float,
    Path: click.Path(path_type=Path),
}
"""The click type of each type of setting."""

_TOML_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "text": ("a string", (str,)),
    "path": ("a string", (str,)),
    "integer": ("an integer", (int,)),
    "float": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "list": ("a list of strings", (str,)),
}
"""The TOML value that each click type takes: in words, and as Python types."""


def setting_options() -> Iterator[click.Option]:
    """An option for each field of ``Config``.

    Raises:
        ImportError: the server is not installed.
    """
    from shortlist_server.config import Config

    types = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        yield _option(field, types[field.name])


def flag_of(field: str, *, repeatable: bool) -> str:
    """The flag of a field: ``data_dir`` is ``--data-dir``, and a tuple ``embedders`` is a repeatable ``--embedder``."""
    name = field.removesuffix("s") if repeatable else field
    return "--" + name.replace("_", "-")


def _option(field: dataclasses.Field[Any], kind: Any) -> click.Option:
    repeatable = typing.get_origin(kind) is tuple
    settings: dict[str, Any]
    flag = flag_of(field.name, repeatable=repeatable)
    if kind is bool:
        declarations, settings = [f"{flag}/--no-{flag.removeprefix('--')}"], {"type": bool}
    else:
        item = typing.get_args(kind)[0] if repeatable else kind
        declarations, settings = [flag], {"type": TYPES[item], "metavar": _metavar(item), "multiple": repeatable}
    return click.Option(
        [*declarations, field.name],
        default=field.default,
        show_default=field.default not in ((), ""),
        show_envvar=True,
        envvar=f"SHORTLIST_{field.name.upper()}",
        help=field.metadata["help"],
        **settings,
    )


def _metavar(kind: object) -> str:
    names = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}
    return names[kind]  # type: ignore[index]


def read_settings_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Reads a TOML file, whose keys are names of settings, as the defaults of the other options."""
    if path is None:
        return
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {parameter.name: parameter for parameter in ctx.command.params if parameter.expose_value}
    unknown = sorted(settings.keys() - known.keys())
    if unknown:
        raise click.BadParameter(f"{path}: unknown settings: {', '.join(unknown)}")
    for name, value in settings.items():
        kind, allowed = _TOML_TYPES["list" if known[name].multiple else known[name].type.name]
        items = value if isinstance(value, list) else [value]
        right = isinstance(value, list) == known[name].multiple and all(type(item) in allowed for item in items)
        if not right:
            raise click.BadParameter(f"{path}: {name} must be {kind}, not {value!r}")
    ctx.default_map = {**(ctx.default_map or {}), **settings}


def serve(**settings: Any) -> None:
    """Runs a server until SIGTERM or Ctrl-C.

    Prints "shortlist serving on HOST:PORT" on standard output once it answers. Logs go to standard error and show the
    steps of the start. The exit code is 0 after a stop and 1 when the server cannot start. A setting comes from its
    flag, else from its environment variable, else from the file given with --config, else from its default. In an
    environment variable, spaces separate the values of a repeatable setting.
    """
    try:
        from shortlist_server.app import run
        from shortlist_server.errors import ShortlistError
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("shortlist_server.") and error.name != "shortlist_server.app":
            raise
        raise click.ClickException(MISSING_SERVER) from error
    config = config_of(settings)
    try:
        run(config)
    except ShortlistError as error:
        raise click.ClickException(error.message) from error


def config_of(settings: dict[str, Any]) -> Config:
    """The settings as a ``Config``; invalid ones end the command with their message."""
    from shortlist_server.config import Config
    from shortlist_server.errors import ShortlistError

    try:
        return Config(**settings)
    except ShortlistError as error:
        raise click.ClickException(error.message) from error


def settings_command(name: str, callback: Callable[..., None]) -> click.Command:
    """A command with all of the server's settings as options; ``callback`` gets their values by name."""
    file = click.Option(
        ["--config", "config_file"],
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="SHORTLIST_CONFIG",
        show_envvar=True,
        is_eager=True,
        expose_value=False,
        callback=read_settings_file,
        metavar="FILE",
        help="TOML file of settings; its keys are the names of the flags, with underscores.",
    )
    try:
        params: list[click.Parameter] = [file, *setting_options()]
    except ModuleNotFoundError:
        params = []
    # Without the server no setting is known: accept any argument, so that the error names what to install.
    lax = {} if params else {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=callback, params=params, help=callback.__doc__, context_settings=lax)


def _command() -> click.Command:
    return settings_command("serve", serve)


serve_command = _command()
