"""The options of every command that calls a server, and the client that they make."""

from __future__ import annotations

from typing import Any

import click

from shortlist import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS, Client, Tls

TLS_OPTIONS = {
    "ca": "tls_ca",
    "certificate": "client_certificate",
    "key": "client_key",
    "server_name": "tls_server_name",
}
"""The options of TLS, by the attribute of ``Tls`` that each sets; any of them switches on TLS."""


def client_options(command: Any) -> Any:
    """Adds the options of every command that calls a server; see ``connect``."""
    return _with_options(command, default_seconds=30.0, help="Longest time for one call.")


def long_client_options(command: Any) -> Any:
    """The same options, without a default deadline; see ``connect_for_long``."""
    return _with_options(command, default_seconds=None, help="Longest time for the call; none by default.")


def _with_options(command: Any, *, default_seconds: float | None, help: str) -> Any:
    options = [
        click.option(
            "--target",
            envvar="SHORTLIST_TARGET",
            default=DEFAULT_TARGET,
            show_default=True,
            metavar="HOST:PORT",
            help="Address of the server.",
        ),
        click.option("--api-key", envvar="SHORTLIST_API_KEY", metavar="KEY", help="API key to send."),
        click.option("--tls", is_flag=True, envvar="SHORTLIST_TLS", help="Encrypt, trusting the system's authorities."),
        click.option(
            "--tls-ca",
            envvar="SHORTLIST_TLS_CA",
            type=click.Path(exists=True, dir_okay=False),
            help="Encrypt, trusting the authorities in this PEM file.",
        ),
        click.option(
            "--tls-server-name",
            envvar="SHORTLIST_TLS_SERVER_NAME",
            metavar="NAME",
            help="Encrypt; the name in the server's certificate, where it differs from the target's host.",
        ),
        click.option(
            "--client-certificate",
            envvar="SHORTLIST_CLIENT_CERTIFICATE",
            type=click.Path(exists=True, dir_okay=False),
            help="Encrypt, and present the certificate in this PEM file.",
        ),
        click.option(
            "--client-key",
            envvar="SHORTLIST_CLIENT_KEY",
            type=click.Path(exists=True, dir_okay=False),
            help="PEM file of that certificate's private key.",
        ),
        click.option(
            "--timeout",
            "timeout_seconds",
            type=click.FloatRange(min=0, min_open=True),
            default=default_seconds,
            show_default=True,
            metavar="SECONDS",
            help=help,
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def connect(options: dict[str, Any]) -> Client:
    """Removes the connection's options from ``options`` and returns a client."""
    tls, timeout = options.pop("tls"), options.pop("timeout_seconds")
    chosen = {name: options.pop(option, None) for name, option in TLS_OPTIONS.items()}
    return Client(
        options.pop("target"),
        api_key=options.pop("api_key"),
        tls=Tls(**chosen) if any(chosen.values()) else tls,
        timeout_seconds=DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout,
    )


def connect_for_long(options: dict[str, Any]) -> tuple[Client, float | None]:
    """As ``connect``; also returns the deadline of the call in seconds, None unless ``--timeout`` was given."""
    timeout = options["timeout_seconds"]
    return connect(options), timeout
