"""``shortlist key``: makes an API key, and the entry for the server that will accept it."""

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
    help="What the key may do; repeatable. No scope includes another.",
)
@click.option(
    "--collection",
    "collections",
    multiple=True,
    metavar="NAME",
    help="Collection that the key may use, or the beginning of names followed by '*'; repeatable; all by default.",
)
def key_command(name: str, scopes: tuple[str, ...], collections: tuple[str, ...]) -> None:
    """Makes an API key called NAME.

    The first line of the output is the key: give it to its user only. The second line is the entry for the file that
    the server reads with --api-keys-file. The entry holds only a hash, from which nobody can recover the key.
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
