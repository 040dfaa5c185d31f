"""``shortlist worker``: runs models for servers on other machines, with the settings of ``serve``."""

from __future__ import annotations

from typing import Any

import click

from shortlist_cli.hosting.serve import MISSING_SERVER, config_of, settings_command


def worker(**settings: Any) -> None:
    """Runs models for servers on other machines, until SIGTERM or Ctrl-C.

    Prints "shortlist serving on HOST:PORT" once it answers. A worker has no collections. Its settings for TLS and API
    keys, and its exit codes, are those of serve. A server calls a worker with --worker HOST:PORT, repeated for each
    worker, and with the workers' --embedder and --reranker. It sends the key, of scope read, that
    --worker-api-key-file holds, and speaks TLS with --worker-tls-ca.
    """
    try:
        from shortlist_server.worker import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("shortlist_server.") and error.name != "shortlist_server.worker":
            raise
        raise click.ClickException(MISSING_SERVER) from error
    run(config_of(settings))


worker_command = settings_command("worker", worker)
