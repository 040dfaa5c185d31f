"""File operations with explicit durability: all that storage changes on disk outside SQLite.

Every write, fsync, rename and removal goes through a ``Files``. Tests replace it to record the order of operations and
to stage a crash between any two of them. A file is durable once its content *and* the folder that names it are synced.
Only the owner may read what is made here: folders have mode 0700 and files 0600. Stateless: any thread may use one
instance.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from shortlist_server.domain import NEVER, Cancellation

FOLDER_MODE = 0o700
FILE_MODE = 0o600

_COPIED_AT_ONCE = 1 << 20
_SYNCED_AT_ONCE = 64 << 20
"""Bytes copied between two syncs. The last sync of a large file is then short, so a cancelled copy ends soon."""

CrashPoint = Callable[[str], None]
"""Called with the name of each point where a crash must do no harm. Tests kill the process there."""


def pass_by(point: str) -> None:
    """The crash point for production: does nothing."""


def new_file(path: Path) -> None:
    """Makes an empty file that only its owner can read. Raises ``FileExistsError`` if the path exists."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


class Files:
    """File operations with explicit durability."""

    def make_folder(self, path: Path) -> None:
        """Makes a folder, whose parent must exist. Durable once the parent is synced."""
        path.mkdir(mode=FOLDER_MODE)

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Writes a file, replacing the content of an existing one. Durable after ``sync`` and ``sync_folder``."""
        with open(path, "wb", opener=_narrow) as file:
            file.write(data)

    def copy(self, source: Path, target: Path, cancellation: Cancellation = NEVER) -> None:
        """Copies a file's content into a new file. Durable after ``sync`` and ``sync_folder``.

        Raises:
            OperationCancelled: the copy was cancelled; a part of the file is there.
        """
        new_file(target)
        with source.open("rb", buffering=0) as read, target.open("wb") as written:
            unsynced = 0
            while content := read.read(_COPIED_AT_ONCE):
                cancellation.check()
                written.write(content)
                unsynced += len(content)
                if unsynced >= _SYNCED_AT_ONCE:
                    written.flush()
                    os.fdatasync(written.fileno())
                    unsynced = 0

    def narrow(self, path: Path) -> None:
        """Lets only the owner read a file that a library wrote."""
        path.chmod(FILE_MODE)

    def sync(self, path: Path) -> None:
        """Forces a file's content to disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Forces a folder's names to disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Renames a file or folder atomically."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Removes a file, if it exists. Durable once its folder is synced."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Removes a folder and all in it, if it exists."""
        shutil.rmtree(path, ignore_errors=True)


def _narrow(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)
