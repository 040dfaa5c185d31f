"""``shortlist backup``, ``backups`` and ``restore``.

Backups lie in the server's backup folder; commands name them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from shortlist import Backup, Collection
from shortlist_cli import output
from shortlist_cli.commands.collections import to_json as collection_to_json
from shortlist_cli.commands.waiting import copying, detach_option, follow
from shortlist_cli.connection import client_options, connect, connect_for_long, long_client_options


@click.command("backup")
@click.argument("name")
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@detach_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@long_client_options
def backup_command(name: str, collections: tuple[str, ...], *, detach: bool, as_json: bool, **options: Any) -> None:
    """Makes the backup NAME of all collections, or of those given, while the server serves.

    The backup is a new folder in the server's backup folder (its setting backup_dir). When the command ends, the backup
    is complete, checked and synced to disk. Each collection has the state of one commit. Ctrl-C cancels the backup and
    leaves nothing of it.
    """
    client, timeout = connect_for_long(options)
    with client, copying() as progress:
        ended = follow(
            client,
            lambda: client.start_backup(name, collections, timeout_seconds=timeout),
            detach=detach,
            as_json=as_json,
            progress=progress,
            timeout_seconds=timeout,
        )
    if ended is None:
        return
    made = ended.result
    assert isinstance(made, Backup)
    if as_json:
        output.print_json(to_json(made))
        return
    rows = [
        [
            one.name,
            one.sequence,
            one.document_count,
            one.passage_count,
            f"{one.disk_bytes / 1e6:.1f}",
            ", ".join(one.models),
        ]
        for one in made.collections
    ]
    columns = ["collection", "sequence", "documents", "passages", "MB", "models it needs"]
    output.print_table(columns, rows, right=columns[1:-1], styles={"collection": "bold"})


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
@detach_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@long_client_options
def restore_command(
    backup: str, collection: str, *, new_name: str | None, detach: bool, as_json: bool, **options: Any
) -> None:
    """Makes a collection from COLLECTION in BACKUP, while the server serves.

    The name must be free: restore under another name, or delete the existing collection first. Ctrl-C cancels the
    restore and leaves nothing of it.
    """
    client, timeout = connect_for_long(options)
    with client, copying() as progress:
        ended = follow(
            client,
            lambda: client.start_restore(backup, collection, new_name=new_name, timeout_seconds=timeout),
            detach=detach,
            as_json=as_json,
            progress=progress,
            timeout_seconds=timeout,
        )
    if ended is None:
        return
    made = ended.result
    assert isinstance(made, Collection)
    if as_json:
        output.print_json(collection_to_json(made))
    else:
        click.echo(f"{made.name}: {made.document_count:,} documents, {made.passage_count:,} passages")


def to_json(backup: Backup) -> dict[str, Any]:
    """A backup as JSON values; its keys are the names of the client's types."""
    return {**dataclasses.asdict(backup), "create_time": backup.create_time.isoformat()}
