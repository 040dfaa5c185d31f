"""``shortlist dead-letters``: lists, retries and deletes the documents that ingests could not take."""

from __future__ import annotations

import json
from typing import Any

import click

from shortlist import Ack, AckStatus, DeadLetter, Document
from shortlist_cli import output
from shortlist_cli.commands.ingest import EXIT_FAILED_DOCUMENTS, SHOWN_FAILURES
from shortlist_cli.connection import client_options, connect, connect_for_long, long_client_options
from shortlist_cli.group import explain

numbers_argument = click.argument("numbers", nargs=-1, type=click.IntRange(0), metavar="[NUMBER]...")


@click.group("dead-letters")
def dead_letters_group() -> None:
    """Lists, retries and deletes the documents that ingests could not take.

    The server keeps the newest failure of each id. A later success with the same id removes it.
    """


@dead_letters_group.command("list")
@click.argument("collection")
@click.option("--documents", is_flag=True, help='Print the kept documents as JSON lines for "ingest".')
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def list_command(collection: str, *, documents: bool, as_json: bool, **options: Any) -> None:
    """Lists the failures in COLLECTION, oldest first, with their reasons."""
    if documents and as_json:
        raise click.UsageError("give --documents or --json, not both")
    with connect(options) as client:
        found = client.list_dead_letters(collection, include_document=documents)
        if documents:
            for one in found:
                if one.document is not None:
                    click.echo(json.dumps(document_to_json(one.document), ensure_ascii=False))
            return
        failures = list(found)
    if as_json:
        output.print_json([to_json(one) for one in failures])
        return
    rows = [
        [
            one.number,
            one.id,
            one.time.isoformat(timespec="seconds"),
            one.error.reason,
            explain(one.error),
            "yes" if one.retriable else "no",
        ]
        for one in failures
    ]
    columns = ["number", "id", "time", "reason", "message", "retriable"]
    output.print_table(columns, rows, right=("number",), styles={"id": "bold", "reason": "red"})


@dead_letters_group.command("retry")
@click.argument("collection")
@numbers_argument
@click.option("--json", "as_json", is_flag=True, help="Print the outcome of each document as JSON.")
@long_client_options
def retry_command(collection: str, numbers: tuple[int, ...], *, as_json: bool, **options: Any) -> None:
    """Ingests failed documents of COLLECTION again: all, or those with a NUMBER of the list.

    Those that succeed leave the list; one that fails again stays, with a new number. The exit code is 3 when some
    failed again.
    """
    client, timeout = connect_for_long(options)
    with client:
        acks = client.retry_dead_letters(collection, numbers or None, timeout_seconds=timeout)
    failed = [ack for ack in acks if not ack.ok]
    if as_json:
        output.print_json([_ack_to_json(ack) for ack in acks])
    else:
        counts = {status: sum(ack.status is status for ack in acks) for status in AckStatus}
        shown = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
        click.echo(f"{collection}: {shown or 'nothing to retry'}")
        for ack in failed[:SHOWN_FAILURES]:
            assert ack.error is not None
            output.note(f"{ack.id or f'#{ack.index}'}: {explain(ack.error)}")
        if len(failed) > SHOWN_FAILURES:
            output.note(f"and {len(failed) - SHOWN_FAILURES:,} more")
    if failed:
        raise click.exceptions.Exit(EXIT_FAILED_DOCUMENTS)


@dead_letters_group.command("delete")
@click.argument("collection")
@numbers_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask before deleting all.")
@client_options
def delete_command(collection: str, numbers: tuple[int, ...], *, yes: bool, **options: Any) -> None:
    """Deletes failed documents of COLLECTION: all, or those with a NUMBER of the list; there is no undo."""
    with connect(options) as client:
        if not numbers and not yes:
            click.confirm(f"Forget all failed documents of {collection}?", abort=True, err=True)
        deleted = client.delete_dead_letters(collection, numbers or None)
    output.note(f"deleted {deleted:,}")


def to_json(failure: DeadLetter) -> dict[str, Any]:
    """A failure as JSON values."""
    return {
        "number": failure.number,
        "id": failure.id,
        "stream": failure.stream,
        "position": failure.position,
        "time": failure.time.isoformat(),
        "reason": failure.error.reason,
        "message": failure.error.message,
        "field": failure.error.field,
        "retryable": failure.error.retryable,
        "retriable": failure.retriable,
    }


def document_to_json(document: Document) -> dict[str, Any]:
    """A document as JSON values, in the form that ``ingest`` reads."""
    values: dict[str, Any] = {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
    }
    if document.vector is not None:
        values["vector"] = list(document.vector)
    return values


def _ack_to_json(ack: Ack) -> dict[str, Any]:
    return {
        "number": ack.index,
        "id": ack.id,
        "status": str(ack.status),
        "sequence": ack.sequence,
        "reason": ack.error.reason if ack.error else "",
        "message": ack.error.message if ack.error else "",
        "field": ack.error.field if ack.error else "",
    }
