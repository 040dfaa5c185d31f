"""Checks certificates and addresses before anything is loaded.

Called once at start-up, by one thread. Resolving a host's name may take as long as the system's resolver does.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, Unavailable
from shortlist_server.rpc import transport

_UNIX = "unix:"
_URI_SCHEMES = ("ipv4:", "ipv6:", "dns:///", "dns:")
"""Prefixes that gRPC accepts before an address."""

_LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path; the system's limit is one more, for the zero at its end (unix(7))."""

_EXPIRED, _NOT_YET_VALID = 10, 9
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL."""

_REMEDIES = {
    errno.EADDRINUSE: "another process listens there: stop it, or choose another port",
    errno.EACCES: "this user may not: choose a port above 1023",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose another host",
}


def check_certificates(config: Config) -> None:
    """Refuses TLS files with which no client could be served.

    Raises:
        InvalidArgument: a file is missing or is not PEM, key and certificate do not belong together, or the
            certificate is not valid today.
    """
    if transport.credentials(config) is None:
        return
    for field, marker, what in (
        ("tls_certificate", b"-----BEGIN CERTIFICATE-----", "certificate"),
        ("tls_key", b"PRIVATE KEY-----", "private key"),
        ("tls_client_ca", b"-----BEGIN CERTIFICATE-----", "certificate"),
    ):
        path = getattr(config, field)
        if path and marker not in Path(path).read_bytes():
            raise InvalidArgument(f"{path} holds no {what} in PEM form: give another file", field=field)
    server = _context(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(config.tls_certificate, config.tls_key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"the key {config.tls_key} is not that of the certificate {config.tls_certificate}"
        else:
            problem = f"{config.tls_certificate} and {config.tls_key} cannot be read ({error.reason or error})"
        remedy = "give the certificate and the unencrypted key that were issued together"
        raise InvalidArgument(f"{problem}: {remedy}", field="tls_key") from error
    except ValueError as error:
        remedy = "give it unencrypted, for nobody can type a password at the start"
        raise InvalidArgument(f"the key {config.tls_key} is encrypted: {remedy}", field="tls_key") from error
    if config.tls_client_ca:
        try:
            server.load_verify_locations(config.tls_client_ca)
        except ssl.SSLError as error:
            raise InvalidArgument(
                f"the authorities in {config.tls_client_ca} cannot be read ({error.reason or error}): give another"
                " file",
                field="tls_client_ca",
            ) from error
    _check_dates(server, config.tls_certificate)


def check_addresses(config: Config) -> None:
    """Opens both addresses for a moment, to find a taken one before the models are loaded.

    Raises:
        InvalidArgument: metrics are to be served on a Unix socket.
        Unavailable: an address cannot be listened on.
    """
    if config.metrics_listen.startswith(("unix:", "unix-abstract:")):
        raise InvalidArgument("metrics are served on HOST:PORT only", field="metrics_listen")
    with ExitStack() as opened:
        for field, use in (("listen", "listen"), ("metrics_listen", "serve metrics")):
            address = getattr(config, field)
            if not address or address.startswith("unix-abstract:"):
                continue
            try:
                if address.startswith(_UNIX):
                    _check_socket_folder(Path(address.removeprefix(_UNIX).removeprefix("//")))
                else:
                    opened.enter_context(_open(address, any_host=field == "listen"))
            except OSError as error:
                reason = f"{_REMEDIES.get(error.errno or 0) or error.strerror or error}"
                raise Unavailable(f"cannot {use} on {address}: {reason}") from error


def _open(address: str, *, any_host: bool) -> socket.socket:
    """Listens on the first of a name's addresses that it can; gRPC listens on as many as it can."""
    for scheme in _URI_SCHEMES:
        address = address.removeprefix(scheme)
    host, _, port = address.rpartition(":")
    name = host.strip("[]") or (None if any_host else "127.0.0.1")
    failure = OSError(errno.EADDRNOTAVAIL, "")
    for family, kind, protocol, _, place in socket.getaddrinfo(
        name, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        try:
            probe = socket.socket(family, kind, protocol)
        except OSError as error:
            failure = error
            continue
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
        except OSError as error:
            probe.close()
            failure = error
        else:
            return probe
    raise failure


def _check_socket_folder(path: Path) -> None:
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {_LONGEST_SOCKET} bytes: choose a shorter one")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OSError(errno.ENOENT, f"there is no folder {path.parent} that this user may write to: make it")
    if path.exists() and not path.is_socket():
        raise OSError(errno.EEXIST, f"{path} is a file or folder: remove it")


def _check_dates(server: ssl.SSLContext, certificate: str) -> None:
    """Makes a TLS handshake in memory with a client that trusts the certificate: ``ssl`` checks dates only then."""
    client = _context(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking, answering = client.wrap_bio(back, forth), server.wrap_bio(forth, back, server_side=True)
    for side in (asking, answering, asking):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError as error:
            problem = {_EXPIRED: "has expired", _NOT_YET_VALID: "is not valid yet"}.get(error.verify_code)
            if problem:
                raise InvalidArgument(
                    f"the certificate {certificate} {problem}: renew it, or set this machine's clock",
                    field="tls_certificate",
                ) from error
            return  # of no concern to the dates


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    # gRPC's own library decides which keys are too weak, not this check.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _no_password() -> str:
    raise ValueError
