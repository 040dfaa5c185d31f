"""The group of all commands, their common look and how their errors are shown.

A command raises ``ShortlistError``; here it becomes one line and an exit code. 1: the call failed, or was interrupted;
2: wrong usage (click's own); 3: some documents failed.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

import click

from shortlist._channel import DEFAULT_TARGET
from shortlist._errors import InvalidArgument, ShortlistError

COMMANDS = {
    "serve": ("shortlist._cli.serve:serve_command", "Run a server."),
    "worker": ("shortlist._cli.worker:worker_command", "Run models for servers on other machines."),
    "config": ("shortlist._cli.config:config_command", "Print the settings a server would run with."),
    "key": ("shortlist._cli.key:key_command", "Make an API key for a server."),
    "ingest": ("shortlist._cli.ingest:ingest_command", "Put documents from files into a collection."),
    "search": ("shortlist._cli.search:search_command", "Search a collection."),
    "collections": ("shortlist._cli.collections:collections_group", "List, create, show and delete collections."),
    "get": ("shortlist._cli.documents:get_command", "Show documents by id."),
    "list": ("shortlist._cli.documents:list_command", "Print the documents of a collection as JSON lines."),
    "count": ("shortlist._cli.documents:count_command", "Count documents."),
    "delete": ("shortlist._cli.documents:delete_command", "Delete documents by id or filter."),
    "health": ("shortlist._cli.health:health_command", "Ask whether a server is serving."),
    "info": ("shortlist._cli.info:info_command", "Show what a server is and which models it serves."),
    "verify": ("shortlist._cli.verify:verify_command", "Check a data folder, or the collections of a server."),
    "backup": ("shortlist._cli.backup:backup_command", "Back up collections of a server."),
    "backups": ("shortlist._cli.backup:backups_command", "List the backups of a server."),
    "restore": ("shortlist._cli.backup:restore_command", "Make a collection from a backup."),
    "quarantine": ("shortlist._cli.quarantine:quarantine_group", "List, retry and delete documents that failed."),
    "eval": ("shortlist._cli.eval:eval_command", "Measure ranking quality and speed; compare two runs."),
    "tune-search": ("shortlist._cli.tune_search:tune_command", "Find a collection's best search settings."),
    "demo": ("shortlist._cli.demo:demo_command", "Search the documentation of Python's standard library."),
}
"""The commands: where each is, and its line in the help, so that the help imports none of them."""


class LazyGroup(click.Group):
    """A group that imports a command when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an error of the client becomes a line and exit code 1."""
        try:
            return super().invoke(ctx)
        except ShortlistError as error:
            raise click.ClickException(explain(error)) from error


def explain(error: ShortlistError) -> str:
    """An error as a line for a person."""
    if isinstance(error, InvalidArgument) and error.field:
        return f"{error.field}: {error.message}"
    return str(error)


def client_options(command: Any) -> Any:
    """Adds the options every command that talks to a server has; see ``_connect.connect``."""
    return _with_options(command, default_seconds=30.0, help="Longest time for one call.")


def long_client_options(command: Any) -> Any:
    """The same for a command whose call takes as long as it needs; see ``_connect.connect_for_long``."""
    return _with_options(command, default_seconds=None, help="Longest time for the call; none by default.")


def _with_options(command: Any, *, default_seconds: float | None, help: str) -> Any:
    options = [
        click.option(
            "--target",
            envvar="SHORTLIST_TARGET",
            default=DEFAULT_TARGET,
            show_default=True,
            metavar="HOST:PORT",
            help="Address of the server.",
        ),
        click.option("--api-key", envvar="SHORTLIST_API_KEY", metavar="KEY", help="API key to send."),
        click.option("--tls", is_flag=True, envvar="SHORTLIST_TLS", help="Encrypt, trusting the system's authorities."),
        click.option(
            "--tls-ca",
            envvar="SHORTLIST_TLS_CA",
            type=click.Path(exists=True, dir_okay=False),
            help="Encrypt, trusting the authorities in this PEM file.",
        ),
        click.option(
            "--tls-server-name",
            envvar="SHORTLIST_TLS_SERVER_NAME",
            metavar="NAME",
            help="Encrypt; the name in the server's certificate, where it is not the host of the target.",
        ),
        click.option(
            "--client-certificate",
            envvar="SHORTLIST_CLIENT_CERTIFICATE",
            type=click.Path(exists=True, dir_okay=False),
            help="Encrypt, and show the certificate in this PEM file.",
        ),
        click.option(
            "--client-key",
            envvar="SHORTLIST_CLIENT_KEY",
            type=click.Path(exists=True, dir_okay=False),
            help="PEM file of that certificate's private key.",
        ),
        click.option(
            "--timeout",
            "timeout_seconds",
            type=click.FloatRange(min=0, min_open=True),
            default=default_seconds,
            show_default=True,
            metavar="SECONDS",
            help=help,
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(version("shortlist"), prog_name="shortlist")
def cli() -> None:
    """Shortlist: a search server that retrieves, then reranks, in one call."""
