"""``shortlist key``: makes an API key and the entry by which a server accepts it."""

from __future__ import annotations

import click

from shortlist_cli.hosting.serve import MISSING_SERVER


@click.command("key")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["read", "write", "admin"]),
    multiple=True,
    default=["read"],
    show_default=True,
    help="What it may do; repeatable, and none includes another.",
)
@click.option(
    "--collection",
    "collections",
    multiple=True,
    metavar="NAME",
    help="A collection it may use, or the beginning of names followed by '*'; repeatable. Without it, all.",
)
def key_command(name: str, scopes: tuple[str, ...], collections: tuple[str, ...]) -> None:
    """Makes an API key called NAME.

    Prints the key on the first line, for its user and no one else, and on the second the entry for the server, which
    goes into the file given with --api-keys-file. The entry has the key's hash: the key cannot be had from it.
    """
    try:
        from shortlist_server.errors import InvalidArgument
        from shortlist_server.keys import Scope, new_key
    except ModuleNotFoundError as error:
        raise click.ClickException(MISSING_SERVER) from error
    try:
        secret, key = new_key(name, map(Scope, scopes), collections)
    except InvalidArgument as error:
        raise click.ClickException(error.message) from error
    click.echo(f"{secret}\n{key.entry()}")
