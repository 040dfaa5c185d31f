"""Why no connection could be made, in a sentence that says what to do.

gRPC tells it in the words of its TLS library, and some cases not at all: a server that speaks TLS just hangs up on a
client that does not. Where the words leave it open, a second connection finds out. Blocks for two seconds at most; any
thread.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from urllib.parse import unquote

PROBE_SECONDS = 1.0
"""Time for each step of the second connection."""

NO_CONNECTION = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
"""What gRPC's message begins with where it made no connection; later breaks have other words."""

_ADDRESS = re.compile(r"ipv[46]:(\S+):(\d+): ")
_VERIFY = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([\w -]+)")


def why_unreachable(details: str, target: str, *, encrypted: bool, shows_certificate: bool) -> str:
    """Says why there is no server for a client at its target; "" where a connection was made.

    Args:
        details: gRPC's message.
        target: as it was given.
        encrypted: whether the client speaks TLS.
        shows_certificate: whether it has a certificate of its own.
    """
    if not details.startswith(NO_CONNECTION):
        return ""
    if not details.startswith(NO_CONNECTION[0]):
        return (
            f"no machine with the name in '{target}' is known here: check the target, and this machine's name service"
        )
    if "Connection refused" in details or "connect failed" in details:
        return f"nothing listens at {target}: start a server there (shortlist serve), or check host and port"
    if any(words in details for words in ("connect() timed out", "tcp handshaker shutdown", "unreachable")):
        return f"nothing answers at {target}: check host and port, and what stands between, such as a firewall"
    if encrypted:
        return _why_encrypted(details, target, shows_certificate=shows_certificate)
    if "Failed parsing HTTP/2" in details:
        return _no_grpc(target)
    if _speaks_tls(details):
        return (
            f"the server at {target} speaks TLS, and this client does not: connect with tls=True, or with "
            'tls=Tls(ca="...") where its authority is not one of the system\'s (command line: --tls or --tls-ca)'
        )
    if "SETTINGS" in details:
        return _no_grpc(target)
    return f"no server can be reached at {target}: {details}"


def _why_encrypted(details: str, target: str, *, shows_certificate: bool) -> str:
    if "WRONG_VERSION_NUMBER" in details or "HTTP_REQUEST" in details:
        return (
            f"the server at {target} speaks no TLS, and this client does: connect without tls (command line: leave out "
            "--tls and the flags of certificates)"
        )
    if found := _VERIFY.search(details):
        return (
            f"the certificate of the server at {target} is not trusted ({found[1].strip()}): give the authority that "
            'signed it with tls=Tls(ca="...") (command line: --tls-ca)'
        )
    if "Hostname Verification" in details:
        return (
            f"the certificate of the server at {target} is for another name: connect to the name in it, or give that "
            "with Tls(server_name=...) (command line: --tls-server-name)"
        )
    if _speaks_tls(details):
        reason = "does not trust this client's certificate" if shows_certificate else "demands a client's certificate"
        return (
            f"the server at {target} speaks TLS and closed the connection; probably it {reason}: give one that it "
            "trusts with Tls(certificate=..., key=...) (command line: --client-certificate, --client-key)"
        )
    if "Handshake read failed" in details:
        return f"what listens at {target} does not answer TLS: check the port, or connect without tls"
    return f"no server can be reached at {target}: {details}"


def _no_grpc(target: str) -> str:
    return f"what listens at {target} is no gRPC server: check the port"


def _speaks_tls(details: str) -> bool:
    """Whether the last address that gRPC tried answers a TLS handshake; its certificate does not matter."""
    addresses = _ADDRESS.findall(details)
    if not addresses:
        return False
    host, port = unquote(addresses[-1][0]).strip("[]"), int(addresses[-1][1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(OSError), socket.create_connection((host, port), PROBE_SECONDS) as plain:
        try:
            with context.wrap_socket(plain) as encrypted:
                return encrypted.version() is not None
        except ssl.SSLError as error:
            # An alert, such as the demand for a certificate, is TLS too; other bytes are not.
            return "ALERT" in (error.reason or "")
    return False
