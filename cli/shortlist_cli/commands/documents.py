"""``shortlist get``, ``list``, ``count`` and ``delete``: the documents of a collection."""

from __future__ import annotations

import itertools
import json
from typing import Any

import click

from shortlist import StoredDocument
from shortlist_cli import output
from shortlist_cli.commands.filter_text import filter_option, parse_filters
from shortlist_cli.connection import client_options, connect


@click.command("get")
@click.argument("collection")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@client_options
def get_command(collection: str, ids: tuple[str, ...], **options: Any) -> None:
    """Prints documents of COLLECTION as JSON, one on a line; the exit code is 1 when one is missing."""
    with connect(options) as client:
        documents = client.get(collection, ids)
    missing = False
    for id, document in zip(ids, documents, strict=True):
        if document is None:
            output.note(f"there is no document {id!r}")
            missing = True
        else:
            output.print_json(to_json(document))
    if missing:
        raise click.exceptions.Exit(1)


@click.command("list")
@click.argument("collection")
@filter_option
@click.option("--limit", "-n", type=click.IntRange(1), help="Documents to print; all by default.")
@client_options
def list_command(collection: str, filters: tuple[str, ...], limit: int | None, **options: Any) -> None:
    """Prints the documents of COLLECTION as JSON lines for "ingest", least recently changed first."""
    with connect(options) as client:
        documents = client.list(collection, filter=parse_filters(filters))
        for document in itertools.islice(documents, limit):
            click.echo(json.dumps(to_json(document), ensure_ascii=False))


@click.command("count")
@click.argument("collection")
@filter_option
@client_options
def count_command(collection: str, filters: tuple[str, ...], **options: Any) -> None:
    """Counts the documents of COLLECTION."""
    with connect(options) as client:
        click.echo(client.count(collection, filter=parse_filters(filters)))


@click.command("delete")
@click.argument("collection")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask before deleting by filter.")
@client_options
def delete_command(
    collection: str, ids: tuple[str, ...], filters: tuple[str, ...], *, yes: bool, **options: Any
) -> None:
    """Deletes documents of COLLECTION, by their ids or by a filter."""
    if bool(ids) == bool(filters):
        raise click.UsageError("give ids or a filter")
    with connect(options) as client:
        filter = parse_filters(filters)
        if filter is not None and not yes:
            count = client.count(collection, filter=filter)
            click.confirm(f"Delete {count:,} documents of {collection}?", abort=True, err=True)
        result = client.delete(collection, ids or None, filter=filter)
    output.note(f"deleted {result.deleted_count:,}")


def to_json(document: StoredDocument) -> dict[str, Any]:
    """A document as JSON values, in the form that ``ingest`` reads."""
    return {"id": document.id, "title": document.title, "text": document.text, "metadata": dict(document.metadata)}
