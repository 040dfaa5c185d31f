"""``shortlist worker``: the models of this machine, for servers elsewhere; the settings are those of ``serve``."""

from __future__ import annotations

from typing import Any

import click

from shortlist_cli.hosting.serve import MISSING_SERVER, config_of, settings_command


def worker(**settings: Any) -> None:
    """Runs models for servers on other machines, until it is told to stop (SIGTERM or Ctrl-C).

    A server uses it with --worker HOST:PORT, given as often as there are workers, and the same --embedder and
    --reranker as the workers have. Prints "shortlist serving on HOST:PORT" when it answers. It has no collections. TLS
    and API keys are those of serve; a server shows its key, of scope read, with --worker-api-key-file, and speaks TLS
    to workers with --worker-tls-ca. Exit codes are those of serve.
    """
    try:
        from shortlist_server.worker import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("shortlist_server.") and error.name != "shortlist_server.worker":
            raise
        raise click.ClickException(MISSING_SERVER) from error
    run(config_of(settings))


worker_command = settings_command("worker", worker)
