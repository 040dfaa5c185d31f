"""``shortlist backup``, ``backups`` and ``restore``.

Backups lie in the server's backup folder; commands name them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import click

from shortlist import Backup, CopyProgress
from shortlist_cli import output
from shortlist_cli.commands.collections import to_json as collection_to_json
from shortlist_cli.connection import client_options, connect, connect_for_long, long_client_options


@click.command("backup")
@click.argument("name")
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@long_client_options
def backup_command(name: str, collections: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Makes the backup NAME of all collections, or of those given, while the server serves.

    The backup is a new folder in the server's backup folder (its setting backup_dir). When the command ends, the backup
    is complete, checked and synced to disk. Each collection has the state of one commit.
    """
    client, timeout = connect_for_long(options)
    with client, _copying() as progress:
        made = client.backup(name, collections, progress=progress, timeout_seconds=timeout)
    if as_json:
        output.print_json(to_json(made))
        return
    rows = [
        [one.name, one.sequence, one.document_count, one.passage_count, f"{one.disk_bytes / 1e6:.1f}"]
        for one in made.collections
    ]
    columns = ["collection", "sequence", "documents", "passages", "MB"]
    output.print_table(columns, rows, right=columns[1:], styles={"collection": "bold"})


@click.command("backups")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def backups_command(*, as_json: bool, **options: Any) -> None:
    """Lists the backups of the server, newest first."""
    with connect(options) as client:
        backups = list(client.list_backups())
    if as_json:
        output.print_json([to_json(backup) for backup in backups])
        return
    rows = [
        [
            backup.name,
            backup.create_time.isoformat(timespec="seconds"),
            ", ".join(one.name for one in backup.collections),
            sum(one.document_count for one in backup.collections),
            f"{sum(one.disk_bytes for one in backup.collections) / 1e6:.1f}",
        ]
        for backup in backups
    ]
    columns = ["name", "created", "collections", "documents", "MB"]
    output.print_table(columns, rows, right=("documents", "MB"), styles={"name": "bold"})


@click.command("restore")
@click.argument("backup")
@click.argument("collection")
@click.option("--as", "new_name", metavar="NAME", help="Name of the new collection; the original name by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@long_client_options
def restore_command(backup: str, collection: str, *, new_name: str | None, as_json: bool, **options: Any) -> None:
    """Makes a collection from COLLECTION in BACKUP, while the server serves.

    The name must be free: restore under another name, or delete the existing collection first.
    """
    client, timeout = connect_for_long(options)
    with client, _copying() as progress:
        made = client.restore(backup, collection, new_name=new_name, progress=progress, timeout_seconds=timeout)
    if as_json:
        output.print_json(collection_to_json(made))
    else:
        click.echo(f"{made.name}: {made.document_count:,} documents, {made.passage_count:,} passages")


def to_json(backup: Backup) -> dict[str, Any]:
    """A backup as JSON values; its keys are the names of the client's types."""
    return {**dataclasses.asdict(backup), "create_time": backup.create_time.isoformat()}


@contextlib.contextmanager
def _copying() -> Iterator[Callable[[CopyProgress], None]]:
    """Shows a progress bar for each copied collection; yields the function that updates it."""
    tasks: dict[str, Any] = {}
    with output.copy_bar() as bar:

        def show(progress: CopyProgress) -> None:
            if progress.collection not in tasks:
                _complete(bar, tasks)
                tasks[progress.collection] = bar.add_task(progress.collection, total=None)
            if progress.note:
                output.note(f"{progress.collection}: {progress.note}")
            task = tasks[progress.collection]
            bar.update(task, completed=progress.done_bytes, total=max(progress.total_bytes, 1))

        yield show
        _complete(bar, tasks)


def _complete(bar: Any, tasks: dict[str, Any]) -> None:
    # Progress comes only a few times a second, so the last update of a collection may be missing.
    for task in tasks.values():
        bar.update(task, completed=bar.tasks[task].total)
