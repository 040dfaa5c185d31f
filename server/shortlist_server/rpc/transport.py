"""The server's port: its channel options, its certificates, and who may reach it without a key.

Used once, by the composition root.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
from pathlib import Path

import grpc
import grpc.aio

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, Unavailable

READ_AHEAD_BYTES = 1024 * 1024
"""What the transport takes of a stream that the server does not read; bounds a stream to 10 MB a second at 100 ms."""

IDENTITY_AND_GZIP = 0b101
"""Bits of the algorithms, as grpc_compression_algorithm numbers them."""

HANDSHAKE_MS = 10_000
"""Time for a connection to speak HTTP/2, after TLS where it is spoken."""

STREAMS_OF_CONNECTION = 1024
"""Calls of one connection at once; a client keeps more until there is room. gRPC hands a server the calls of a method
one after another, so that a flood of them holds up the honest ones."""


MIN_PING_SECONDS = 5.0
"""Shortest time between two pings of a client; gRPC ends the connection of one that pings more often (GOAWAY
too_many_pings). Clients of this project ping every 30 s, servers their workers every 10 s, and many libraries have a
minimum of 10 s. Half of that, because pings that were held up arrive closer together than they were sent."""


def options(config: Config) -> list[tuple[str, int]]:
    """The channel options of the server."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_metadata_size", config.max_header_bytes),
        # Between the two limits gRPC refuses more calls the nearer they come to the upper; here there is one limit.
        ("grpc.absolute_max_metadata_size", config.max_header_bytes),
        ("grpc.so_reuseport", 0),
        # A message comes as it was sent, and is decompressed by us, within bounds (``requests``): gzip alone.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_AND_GZIP),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_concurrent_streams", STREAMS_OF_CONNECTION),
        # Read ahead of the application on each stream; by its own probing gRPC would take ever more on a fast network.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", READ_AHEAD_BYTES),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(MIN_PING_SECONDS * 1000)),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


@functools.cache
def keep_library() -> None:
    """Keeps gRPC's library running until the process ends. To be called on an event loop before a server is made.

    Otherwise it ends with the last server and channel of ``grpc.aio``. Its end joins a thread that may itself wait for
    an event loop to read from a socket, and where the loop is closed it waits for ever
    (https://github.com/grpc/grpc/pull/40989). Whoever makes a server meanwhile, such as the next test, would wait too.
    """
    grpc.aio.init_grpc_aio()


class _OfCallersThatStayed(logging.Filter):
    """Drops what gRPC logs, with a traceback, when a caller is gone before its answer."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


_of_callers_that_stayed = _OfCallersThatStayed()


def listen(server: grpc.aio.Server, config: Config) -> int:
    """Opens the server's port, with TLS when there is a certificate; returns its number.

    Raises:
        InvalidArgument: a TLS file is missing or cannot be read.
        Unavailable: the address cannot be listened on.
    """
    shown = credentials(config)
    # Of the one instance: adding it again changes nothing.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_of_callers_that_stayed)
    try:
        if shown is None:
            return server.add_insecure_port(config.listen)
        return server.add_secure_port(config.listen, shown)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {config.listen}: {error}") from error


def check_exposure(config: Config, *, has_keys: bool) -> None:
    """Refuses to listen beyond loopback without API keys, for calls and for metrics.

    Raises:
        InvalidArgument: the address is not a loopback one, there is no API key, and ``insecure`` is not set; or that of
            metrics is none, and ``metrics_insecure`` is not set.
    """
    if not (has_keys or config.insecure or is_loopback(config.listen)):
        raise InvalidArgument(
            f"others can reach {config.listen}, and there is no API key: make one with 'shortlist key' and give it "
            "with --api-key or --api-keys-file, listen on 127.0.0.1, or say --insecure",
            field="listen",
        )
    if config.metrics_listen and not (config.metrics_insecure or is_loopback(config.metrics_listen)):
        raise InvalidArgument(
            f"others can reach the metrics at {config.metrics_listen}, which need no key and name every collection: "
            "serve them on 127.0.0.1, or say --metrics-insecure where only a scraper gets there",
            field="metrics_listen",
        )


def is_loopback(address: str) -> bool:
    """Whether an address HOST:PORT can be reached only from this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def credentials(config: Config) -> grpc.ServerCredentials | None:
    """The server's TLS credentials; None where it speaks no TLS. Raises ``InvalidArgument``."""
    if not config.tls_certificate and not config.tls_key:
        if config.tls_client_ca:
            raise InvalidArgument("client certificates need a server certificate too", field="tls_certificate")
        return None
    if not (config.tls_certificate and config.tls_key):
        raise InvalidArgument("a certificate needs its key, and a key its certificate", field="tls_certificate")
    return grpc.ssl_server_credentials(
        [(_read(config.tls_key, "tls_key"), _read(config.tls_certificate, "tls_certificate"))],
        root_certificates=_read(config.tls_client_ca, "tls_client_ca") if config.tls_client_ca else None,
        require_client_auth=bool(config.tls_client_ca),
    )


def _read(path: str, field: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"the TLS file cannot be read: {error}", field=field) from error
