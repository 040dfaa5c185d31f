"""File descriptors: the limit of this process, the share for collections, and the error when none is left.

Callers' connections, models and logs need descriptors too, and at the limit the kernel refuses them all alike.
Therefore collections take a share that leaves room for the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

from shortlist_server.errors import Overloaded, Unavailable

LEAST_LIMIT = 192
"""Lowest limit of open files with which a server starts: enough for itself, some connections and a few collections."""

_OWN = 96
_SHARE_OF_COLLECTIONS = 0.75
_FEW = 8
_RETRY_SECONDS = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE}


def raise_limit() -> int:
    """Raises this process's limit of open files as far as allowed; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # Some systems state a hard limit that they do not grant; then the soft limit stays.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()


def limit() -> int:
    """How many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def check_limit() -> None:
    """Refuses to start if the limit of open files is too low to serve.

    Raises:
        Unavailable: the limit is below ``LEAST_LIMIT``.
    """
    if limit() < LEAST_LIMIT:
        raise Unavailable(
            f"the limit of open files is {limit()}, and the server needs at least {LEAST_LIMIT}; raise the hard limit"
            " (ulimit -n, LimitNOFILE= of systemd, --ulimit nofile= of a container)"
        )


def share_of_collections() -> int:
    """How many descriptors all open collections together may take, under the present limit."""
    return max(0, int(_SHARE_OF_COLLECTIONS * (limit() - _OWN)))


def are_exhausted(error: OSError | None = None) -> bool:
    """Whether ``error`` means that the limit of open files is reached; without ``error``, whether it is reached now.

    The second form is for errors of SQLite and hnswlib, which say only that they could not open a file. It opens a few
    files to find out, because the failed call has closed its own descriptors by then.
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
    """The error for work on a collection that failed for lack of a descriptor."""
    return Overloaded(
        f"the server has reached its limit of {limit()} open files; repeat the call later, or raise the limit"
        " (ulimit -n)",
        metadata={"collection": name, "limit": str(limit())},
        retry_after_seconds=_RETRY_SECONDS,
    )
