"""``shortlist operations``: lists, shows, waits for and cancels the long-running operations of a server."""

from __future__ import annotations

from typing import Any

import click

from shortlist import OperationProgress
from shortlist_cli import output
from shortlist_cli.commands.waiting import cancel, progress_text, to_json
from shortlist_cli.connection import client_options, connect, connect_for_long, long_client_options
from shortlist_cli.group import explain

PREFIX = "operations/"

KINDS = ("verify", "backup", "restore", "evaluate", "reindex", "compare_generations", "publish_model")

STATES = ("pending", "running", "paused", "cancelling", "succeeded", "failed", "cancelled")

EXIT_NOT_SUCCEEDED = 1
EXIT_NOT_ENDED = 1

name_argument = click.argument("name", metavar="OPERATION")


@click.group("operations")
def operations_group() -> None:
    """Lists, shows, waits for and cancels operations: verify, backup, restore, evaluate, reindex, publish a model.

    An operation goes on when the command that started it ends. A server forgets an ended operation after a day
    at most. A restart ends and forgets all of them but a reindex, which goes on.
    """


@operations_group.command("list")
@click.option("--collection", "-c", metavar="NAME", help="Only those that work on this collection.")
@click.option("--kind", type=click.Choice(KINDS), help="Only those of this kind.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@client_options
def list_command(*, collection: str | None, kind: Any, state: Any, as_json: bool, **options: Any) -> None:
    """Lists the operations of the server, newest first."""
    with connect(options) as client:
        found = list(client.list_operations(collection=collection, kind=kind, state=state))
    if as_json:
        output.print_json([to_json(one) for one in found])
        return
    rows = [
        [
            one.name,
            one.kind,
            one.collection,
            one.state,
            one.create_time.isoformat(timespec="seconds"),
            progress_text(one.progress),
        ]
        for one in found
    ]
    columns = ["name", "kind", "collection", "state", "created", "progress"]
    output.print_table(columns, rows, styles={"name": "bold", "state": "cyan"})


@operations_group.command("show")
@name_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the result.")
@client_options
def show_command(name: str, *, as_json: bool, **options: Any) -> None:
    """Shows OPERATION as it is now."""
    with connect(options) as client:
        found = client.get_operation(_full(name))
    if as_json:
        output.print_json(to_json(found))
        return
    rows: list[list[object]] = [
        ["name", found.name],
        ["kind", found.kind],
        ["collection", found.collection],
        ["state", found.state],
        ["created", found.create_time.isoformat(timespec="seconds")],
        ["ended", found.end_time and found.end_time.isoformat(timespec="seconds")],
        ["progress", progress_text(found.progress)],
        ["error", found.error and explain(found.error)],
    ]
    output.print_table(["property", "value"], rows, styles={"property": "bold"})


@operations_group.command("wait")
@name_argument
@click.option("--json", "as_json", is_flag=True, help="Print the ended operation as JSON, with the result.")
@long_client_options
def wait_command(name: str, *, as_json: bool, **options: Any) -> None:
    """Waits until OPERATION has ended. Ctrl-C ends the wait, not the operation.

    The exit code is 0 when the operation succeeded, else 1.
    """
    client, timeout = connect_for_long(options)
    with client, output.step_display() as display:
        task = display.add_task("wait")

        def show(progress: OperationProgress) -> None:
            display.update(task, description=progress_text(progress))

        ended = client.wait_operation(_full(name), progress=show, timeout_seconds=timeout)
    if as_json:
        output.print_json(to_json(ended))
    else:
        output.print_line(f"{ended.name}: {ended.state}")
        if ended.error is not None:
            output.note(explain(ended.error))
    if ended.state != "succeeded":
        raise click.exceptions.Exit(EXIT_NOT_SUCCEEDED)


@operations_group.command("cancel")
@name_argument
@client_options
def cancel_command(name: str, **options: Any) -> None:
    """Cancels OPERATION, waits for its end and says what became of it.

    A cancelled backup or restore leaves nothing behind. The exit code is 0 when the operation has ended, however it
    did, else 1.
    """
    with connect(options) as client:
        outcome = cancel(client, client.get_operation(_full(name)))
    output.print_line(outcome.text)
    if not outcome.ended:
        raise click.exceptions.Exit(EXIT_NOT_ENDED)


def _full(name: str) -> str:
    """The name of an operation, which may be given without its prefix."""
    return name if name.startswith(PREFIX) else f"{PREFIX}{name}"
