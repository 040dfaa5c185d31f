"""``shortlist config``: prints the settings that ``serve`` would use, and where each comes from.

The output is a settings file: TOML, with the origin of every value as a comment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shortlist_cli.hosting.serve import MISSING_SERVER, config_of, settings_command

ORIGINS = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}
"""The output's word for each of click's sources, highest priority first."""


def config(**settings: Any) -> None:
    """Prints the settings a server would run with, each with its origin.

    Takes the same flags, environment variables and file as "shortlist serve", in the same order. The output can be used
    as a file for --config. It holds the hashes of API keys but no key.
    """
    if not settings:
        raise click.ClickException(MISSING_SERVER)
    config_of(settings)
    context = click.get_current_context()
    # click passes the settings in the order of their use; the documented order is easier to read.
    names = [parameter.name for parameter in context.command.params if parameter.name in settings]
    lines = [f"{name} = {_toml(settings[name])}" for name in names if name]
    width = min(max(map(len, lines)), 60)
    for line, name in zip(lines, filter(None, names), strict=True):
        source = context.get_parameter_source(name)
        click.echo(f"{line:{width}}  # {ORIGINS.get(source, 'default') if source else 'default'}")


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's strings, numbers and booleans are TOML's too.
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


config_command = settings_command("config", config)
