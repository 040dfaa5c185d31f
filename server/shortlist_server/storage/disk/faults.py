"""Translates errors of SQLite and the file system into errors on which a caller can act.

The context managers here surround all work that touches the disk. ``ShortlistError`` passes through unchanged.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from shortlist_server.errors import DataCorrupted, InvalidArgument, OutOfSpace, ShortlistError, Unavailable
from shortlist_server.storage.disk import descriptors

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_OUT_OF_REACH = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
}


RESTORE = "restore it from a backup"


@contextmanager
def translated(name: str, advice: str = RESTORE) -> Iterator[None]:
    """Turns errors inside the block into typed errors that name the collection.

    Args:
        advice: what to do about a damaged database.

    Raises:
        OutOfSpace: the disk is full.
        Overloaded: the limit of open files is reached.
        DataCorrupted: SQLite found its file damaged.
        Unavailable: another process holds the database, or a file cannot be reached now.
        InvalidArgument: a value cannot be stored, such as text with a lone surrogate.
    """
    try:
        yield
    except ShortlistError:
        raise
    except sqlite3.OperationalError as error:
        if str(error).startswith("Could not decode"):
            # The Python module's own error, without a code. It quotes the text, which no log or caller may see.
            raise _damaged(name, "a text is not valid UTF-8", advice) from None
        raise _from_sqlite(name, error, advice) from error
    except sqlite3.Error as error:
        raise _from_sqlite(name, error, advice) from error
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"text that is not valid Unicode cannot be stored: {error}") from error
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise _out_of_space(name) from error
        if descriptors.are_exhausted(error):
            raise descriptors.exhausted(name) from error
        raise Unavailable(f"collection '{name}': {_sentence(error)}") from error


@contextmanager
def lexical_index() -> Iterator[None]:
    """Surrounds statements on the lexical index, which can be rebuilt without a backup.

    Raises:
        DataCorrupted: SQLite found the index damaged.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT:
            raise DataCorrupted(
                f"the lexical index is damaged ({error}); rebuild it from the texts: shortlist verify --repair"
            ) from error
        raise


def _sentence(error: OSError) -> str:
    path = error.filename or "a file"
    match error.errno:
        case errno.EROFS:
            return f"{path} is on a file system that is mounted read-only"
        case errno.EACCES | errno.EPERM:
            return f"this user may not use {path}"
        case errno.EEXIST | errno.ENOTDIR:
            return f"{path} is a file where a folder belongs; move it away"
        case errno.EISDIR:
            return f"{path} is a folder where a file belongs; move it away"
    return f"{path}: {error.strerror or error}; check the data folder"


def _from_sqlite(name: str, error: sqlite3.Error, advice: str) -> ShortlistError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _out_of_space(name)
    if code in _CORRUPT:
        return _damaged(name, str(error), advice)
    if code in _OUT_OF_REACH and descriptors.are_exhausted():
        return descriptors.exhausted(name)
    if code == sqlite3.SQLITE_READONLY:
        return Unavailable(
            f"the database of collection '{name}' cannot be written to: its file or file system is read-only ({error})"
        )
    if code in _OUT_OF_REACH:
        return Unavailable(f"the database of collection '{name}' cannot be reached: {error}")
    return ShortlistError(f"collection '{name}': {error}")


def _damaged(name: str, problem: str, advice: str) -> DataCorrupted:
    return DataCorrupted(
        f"the database of collection '{name}' is damaged ({problem}); {advice}",
        metadata={"collection": name},
    )


def _out_of_space(name: str) -> OutOfSpace:
    return OutOfSpace(
        f"the disk of collection '{name}' is full; nothing was written: free some space, then repeat",
        metadata={"collection": name},
        retry_after_seconds=5.0,
    )
