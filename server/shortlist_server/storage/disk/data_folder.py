"""Opens the data folder: checks and locks it, and warns if other users of the machine can read it.

    <data_dir>/LOCK                 held by the one process that has the folder open
    <data_dir>/collections/<name>/  a folder for each collection
    <data_dir>/backups/             backups, unless the settings name another folder

Only its own user may read what Shortlist makes. It leaves existing files with wider permissions as they are, and logs
them with the command that narrows them.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, OutOfSpace, Unavailable
from shortlist_server.storage.disk.files import FOLDER_MODE
from shortlist_server.storage.disk.locking import try_lock
from shortlist_server.storage.layout import BACKUP_FILE, COLLECTIONS_FOLDER, LOCK_FILE

logger = logging.getLogger(__name__)


NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Names of collections and of backups."""

_LOCK_SECONDS = 2.0
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def backup_folder(config: Config) -> Path:
    """Where the server's backups are."""
    return Path(config.backup_dir) if config.backup_dir else config.data_dir / "backups"


def open_data_folder(config: Config) -> int:
    """Makes the data folder if it is missing, and locks it; the returned descriptor holds the lock.

    Raises:
        InvalidArgument: a file is where a folder belongs, or the reverse; or the folder is a backup.
        Unavailable: another process has it open, or it cannot be written to.
        OutOfSpace: the disk is full.
    """
    folder = config.data_dir
    if (folder / BACKUP_FILE).exists():
        raise InvalidArgument(
            f"{folder} is a backup, and opening it as a data folder would change it: put it into a server's backup"
            " folder and restore it there",
            field="data_dir",
        )
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        (folder / COLLECTIONS_FOLDER).mkdir(mode=FOLDER_MODE, exist_ok=True)
        lock = _lock(folder / LOCK_FILE)
    except OSError as error:
        raise _unusable(folder, error) from error
    exposed = list(_exposed(config))
    if exposed:
        logger.warning(
            "other users of this machine can read documents in %s; close it to them: chmod -R go= %s",
            ", ".join(map(str, exposed)),
            " ".join(shlex.quote(str(path)) for path in exposed),
        )
    return lock


def _lock(path: Path) -> int:
    # A child process that a killed server was just starting holds the lock until it runs its own program.
    until = time.monotonic() + _LOCK_SECONDS
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() > until:
            raise Unavailable(
                f"the data folder {path.parent} is in use by another process", metadata={"in_use": str(path.parent)}
            )
        time.sleep(0.02)
    return descriptor


def _unusable(folder: Path, error: OSError) -> InvalidArgument | Unavailable | OutOfSpace:
    path = error.filename or folder
    match error.errno:
        case errno.EEXIST | errno.ENOTDIR:
            return InvalidArgument(
                f"the data folder {folder} cannot be used: {path} is a file where a folder belongs; move it away",
                field="data_dir",
            )
        case errno.EISDIR:
            return InvalidArgument(
                f"the data folder {folder} cannot be used: {path} is a folder where a file belongs; move it away",
                field="data_dir",
            )
        case errno.EROFS:
            return Unavailable(f"the data folder {folder} is on a file system that is mounted read-only")
        case errno.EACCES | errno.EPERM:
            return Unavailable(f"the data folder {folder} cannot be used: this user may not write {path}")
        case errno.ENOSPC | errno.EDQUOT:
            return OutOfSpace(f"the disk of the data folder {folder} is full; free some space")
    return Unavailable(f"the data folder {folder} cannot be used: {path}: {error.strerror}")


def _exposed(config: Config) -> Iterator[Path]:
    """The folders of collections and backups that have a file which others can read."""
    backups = backup_folder(config)
    for path in (config.data_dir / COLLECTIONS_FOLDER, backups):
        # A closed folder protects everything in it.
        guards = [path, config.data_dir] if path.is_relative_to(config.data_dir) else [path]
        if all(map(_open_to_others, guards)) and _has_open_file(path):
            yield path


def _has_open_file(folder: Path) -> bool:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if _open_to_others(Path(root, name))]
        if any(_open_to_others(Path(root, name)) for name in files):
            return True
    return False


def _open_to_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except OSError:
        return False
