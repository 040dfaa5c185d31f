"""File descriptors: how many this process may have, the share that collections may take, and what is said without any.

Connections of callers, models and logs need descriptors too, and the kernel refuses all alike once the limit is
reached. So collections take a share that leaves room for the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

from shortlist_server.errors import Overloaded, Unavailable

LEAST_LIMIT = 192
"""Lowest limit of open files a server starts with: enough for itself, some connections and a few collections."""

_OWN = 96
_SHARE_OF_COLLECTIONS = 0.75
_FEW = 8
_RETRY_SECONDS = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE}


def raise_limit() -> int:
    """Raises this process's limit of open files as far as it may go; returns the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems name a hard limit that they do not grant; what there is stays.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()


def limit() -> int:
    """How many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def check_limit() -> None:
    """Refuses to start where the limit of open files is too low to serve.

    Raises:
        Unavailable: it is below ``LEAST_LIMIT``.
    """
    if limit() < LEAST_LIMIT:
        raise Unavailable(
            f"the limit of open files is {limit()}, and the server needs at least {LEAST_LIMIT}; raise the hard limit"
            " (ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of a container)"
        )


def share_of_collections() -> int:
    """How many descriptors open collections may take together, under the present limit."""
    return max(0, int(_SHARE_OF_COLLECTIONS * (limit() - _OWN)))


def are_exhausted(error: OSError | None = None) -> bool:
    """Whether an error means that the limit of open files is reached; without one, whether that is so now.

    SQLite and hnswlib say of such a failure only that they could not open a file, so the second form is for their
    errors. What failed has given its own descriptors back by then, so that a few may be free.
    """
    if error is not None:
        return error.errno in _EXHAUSTED
    taken: list[int] = []
    try:
        while len(taken) < _FEW:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as probed:
        return probed.errno in _EXHAUSTED
    finally:
        for descriptor in taken:
            os.close(descriptor)
    return False


def exhausted(name: str) -> Overloaded:
    """The error for work on a collection that failed because no descriptor is left."""
    return Overloaded(
        f"the server has reached its limit of {limit()} open files; repeat the call later, or raise the limit"
        " (ulimit -n)",
        metadata={"collection": name, "limit": str(limit())},
        retry_after_seconds=_RETRY_SECONDS,
    )
