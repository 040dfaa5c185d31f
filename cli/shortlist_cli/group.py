"""The group of all commands, and how their errors are shown.

The group turns a ``ShortlistError`` of a command into one line and an exit code. 1: the call failed or was
interrupted; 2: wrong usage (click's own); 3: some documents failed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import click

from shortlist import InvalidArgument, ShortlistError

COMMANDS = {
    "serve": ("hosting.serve:serve_command", "Run a server."),
    "worker": ("hosting.worker:worker_command", "Run models for servers on other machines."),
    "config": ("hosting.config:config_command", "Print the settings a server would run with."),
    "key": ("hosting.key:key_command", "Make an API key for a server."),
    "ingest": ("commands.ingest:ingest_command", "Put documents from files into a collection."),
    "search": ("commands.search:search_command", "Search a collection."),
    "collections": (
        "commands.collections:collections_group",
        "List, create, show, update and delete collections.",
    ),
    "get": ("commands.documents:get_command", "Show documents by id."),
    "list": ("commands.documents:list_command", "Print the documents of a collection as JSON lines."),
    "count": ("commands.documents:count_command", "Count documents."),
    "delete": ("commands.documents:delete_command", "Delete documents by id or filter."),
    "health": ("commands.health:health_command", "Ask whether a server is serving."),
    "info": ("commands.info:info_command", "Show what a server is and which models it serves."),
    "verify": ("commands.verify:verify_command", "Check a data folder, or the collections of a server."),
    "backup": ("commands.backup:backup_command", "Back up collections of a server."),
    "backups": ("commands.backup:backups_command", "List the backups of a server."),
    "restore": ("commands.backup:restore_command", "Make a collection from a backup."),
    "operations": (
        "commands.operations:operations_group",
        "List, show, wait for and cancel the operations of a server.",
    ),
    "dead-letters": (
        "commands.dead_letters:dead_letters_group",
        "List, retry and delete documents that failed.",
    ),
    "reindex": ("commands.reindex:reindex_group", "Change the model or chunking of a collection while it serves."),
    "models": ("commands.models:models_group", "Publish models to a running server; list and delete them."),
    "eval": ("evaluation.eval:eval_command", "Measure ranking quality and speed; compare two runs."),
    "tune-search": ("evaluation.tune_search:tune_command", "Find a collection's best search settings."),
    "adapt": ("shortlist_adapt.commands.group:adapt_group", "Train models on a collection, and publish better ones."),
    "demo": ("demo.demo:demo_command", "Search the documentation of Python's standard library."),
}
"""Each command's module and its line of help, so that ``--help`` need not import the commands.

A module is named from this package on, or in full where it belongs to another package.
"""


class LazyGroup(click.Group):
    """A group that imports a command only when it runs."""

    def __init__(self, *arguments: Any, package: str, lazy: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        """Imports nothing.

        Args:
            arguments: as for ``click.Group``.
            package: the package that modules are named from.
            lazy: "module:name" and a line of help for each command, by its name, in the order of the help.
            attributes: as for ``click.Group``.
        """
        super().__init__(*arguments, **attributes)
        self._package = package
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in their order."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        if cmd_name not in self._lazy:
            return None
        module, _, name = self._lazy[cmd_name][0].partition(":")
        path = module if module.startswith("shortlist_") else f"{self._package}.{module}"
        command: click.Command = getattr(importlib.import_module(path), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])


class ShortlistGroup(LazyGroup):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; an error of the client becomes a line and exit code 1."""
        try:
            return super().invoke(ctx)
        except ShortlistError as error:
            raise click.ClickException(explain(error)) from error


def explain(error: ShortlistError) -> str:
    """An error as one line of text."""
    if isinstance(error, InvalidArgument) and error.field:
        return f"{error.field}: {error.message}"
    return str(error)


@click.group(
    cls=ShortlistGroup,
    package=__package__,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(version("shortlist"), prog_name="shortlist")
def cli() -> None:
    """Shortlist: a search server that retrieves, then reranks, in one call."""
