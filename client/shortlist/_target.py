"""The address of a server, checked before it is used: gRPC takes what it cannot read for the name of a machine.

Pure functions.
"""

from __future__ import annotations

import re

from shortlist._errors import InvalidArgument

GRPC_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""What targets in gRPC's own syntax begin with; they are passed on unread."""

_WRITE = 'write "HOST:PORT", as in "localhost:50051"'


def checked_target(target: str) -> str:
    """The target, if a server can be there.

    Raises:
        InvalidArgument: it has the scheme of a URL, no port, or one that cannot be; the message says what to write.
    """
    if not target or target != target.strip() or any(space in target for space in " \t\n"):
        raise _wrong("is empty or has spaces in it")
    if target.startswith(GRPC_SCHEMES):
        return target
    scheme, found, rest = target.partition("://")
    if found:
        encrypt = f', with tls=True or tls=Tls(ca="...") (command line: --tls or --tls-ca) for {scheme}'
        tls = encrypt if scheme in ("https", "grpcs") else ""
        address = rest.partition("/")[0]
        raise InvalidArgument(f'is a URL; write "{address}"{tls}', field="target")
    host, colon, port = target.rpartition(":")
    if not colon or target.endswith("]"):
        raise InvalidArgument(f'names no port: write "{target}:50051", or the port that the server has', field="target")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise _wrong(f'has several colons; an IPv6 address goes into brackets, as in "[{host}]:{port}"')
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise _wrong(f"has no port between 1 and 65535 but '{port}'")
    if not host:
        raise _wrong("names no host")
    return target


def _wrong(what: str) -> InvalidArgument:
    return InvalidArgument(f"{what}; {_WRITE}", field="target")
