"""``shortlist health``: tells by its exit code whether a server is serving."""

from __future__ import annotations

from typing import Any

import click

from shortlist import NotFound
from shortlist_cli.connection import client_options, connect


@click.command("health")
@click.option("--service", default="", metavar="NAME", help="Ask for one service, such as shortlist.v1.SearchService.")
@client_options
def health_command(service: str, **options: Any) -> None:
    """Asks a server, or a worker, for its health (grpc.health.v1).

    Prints "serving" and ends with code 0. Ends with code 1 when the server is not serving or cannot be reached. Needs
    no API key.
    """
    with connect(options) as client:
        try:
            serving = client.health(service)
        except NotFound as error:
            raise click.ClickException(f"the server has no service '{service}'") from error
    if not serving:
        raise click.ClickException("not serving")
    click.echo("serving")
