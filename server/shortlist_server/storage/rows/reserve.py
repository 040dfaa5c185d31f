"""Disk space held in reserve, so that documents can be deleted when the disk is full.

A deletion writes before it frees. Its transaction goes to the write-ahead log, and space returns to the disk only at
the next checkpoint, for which the database may have to grow by the log's new pages. The reserve is a file in the data
folder of twice the log's size. When a deletion finds no room, the server removes the file, checkpoints the log and
tries the deletion again. Until the file fits again, the server refuses changes that grow. Any thread may call.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
from pathlib import Path

from shortlist_server.errors import OutOfSpace
from shortlist_server.storage.disk.files import FILE_MODE
from shortlist_server.storage.layout import RESERVE_FILE
from shortlist_server.storage.rows.write_transaction import WriteTransaction

logger = logging.getLogger(__name__)


MAX_BYTES = 64 << 20
"""Twice the log size at which SQLite checkpoints by itself; see ``schema``."""

_SHARE_OF_DISK = 4
_ROOM_TO_GROW = 8
_BUSY_MILLISECONDS = 1000
_PAGES_AT_ONCE = 256
_ROUNDS = 16


class Reserve:
    """The reserve of one data folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESERVE_FILE
        disk = os.statvfs(folder)
        self._bytes = min(MAX_BYTES, disk.f_blocks * disk.f_frsize // _SHARE_OF_DISK)
        self._lock = threading.Lock()
        self._spent = False
        self.fill()

    @property
    def spent(self) -> bool:
        """Whether a deletion has used the reserve since it was last filled."""
        return self._spent

    def fill(self) -> bool:
        """Takes the space again; False if the disk has too little."""
        with self._lock:
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
                try:
                    os.posix_fallocate(descriptor, 0, max(1, self._bytes))
                    free = os.fstatvfs(descriptor)
                    if self._spent and free.f_bavail * free.f_frsize < self._bytes // _ROOM_TO_GROW:
                        # With almost nothing left, the next growth would fill the disk again.
                        self._path.unlink()
                        return False
                finally:
                    os.close(descriptor)
            except OSError as error:
                self._path.unlink(missing_ok=True)
                if not self._spent:
                    logger.warning("no space is kept back for deletions: %s: %s", self._path, error.strerror)
                # If the disk is full already, deletions need the little that is left.
                self._spent = self._spent or error.errno in (errno.ENOSPC, errno.EDQUOT)
                return False
            self._spent = False
            return True

    def release(self) -> None:
        """Frees the space for a deletion."""
        with self._lock:
            self._spent = True
            self._path.unlink(missing_ok=True)
        logger.warning("the disk is full: the reserve is released, and only deletions are accepted until there is room")

    def close(self) -> None:
        """Removes the file: nobody deletes while no process has the folder open. The next start takes it again."""
        with self._lock:
            self._path.unlink(missing_ok=True)

    def check_growth(self) -> None:
        """Raises ``OutOfSpace`` while there is room for deletions only."""
        if self._spent and not self.fill():
            raise OutOfSpace(
                "the disk is full, and the room left is for deletions only: free some space or delete documents, then"
                " repeat",
                retry_after_seconds=5.0,
            )


def make_room(connection: sqlite3.Connection, reserve: Reserve) -> None:
    """Makes room for a deletion that found none: frees the reserve and checkpoints the log. Writer thread only."""
    reserve.release()
    _checkpoint(connection)


def return_room(transaction: WriteTransaction, reserve: Reserve) -> None:
    """Gives the space of deleted rows back to the disk, then takes the reserve if it fits. Writer thread only."""
    try:
        for _ in range(_ROUNDS):
            left = transaction.reclaim(_PAGES_AT_ONCE)
            if not _checkpoint(transaction.connection) or not left:
                break
    except sqlite3.Error as error:
        # The next deletion tries again.
        logger.warning("freed space could not be given back yet: %s", error)
    reserve.fill()


def _checkpoint(connection: sqlite3.Connection) -> bool:
    """Moves the write-ahead log into the database and truncates it; False if that failed.

    Does not start where the database has no room to grow: the checkpoint would use up the room and achieve nothing.
    """
    (path,) = [row[2] for row in connection.execute("PRAGMA database_list") if row[1] == "main"]
    pages, page_bytes = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    disk = os.statvfs(path)
    if pages * page_bytes - Path(path).stat().st_size > disk.f_bavail * disk.f_frsize:
        return False
    (before,) = connection.execute("PRAGMA busy_timeout").fetchone()
    # Readers may hold the log for long; the next checkpoint takes what they hold now.
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    try:
        busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy
    except sqlite3.OperationalError as error:
        logger.warning("the write-ahead log could not be checkpointed: %s", error)
        return False
    finally:
        connection.execute(f"PRAGMA busy_timeout = {before}")
