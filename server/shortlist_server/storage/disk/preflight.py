"""Checks the data folders before anything is loaded. Changes nothing; any thread may call."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument, Unavailable

logger = logging.getLogger(__name__)

_FOLDERS = ("collections", "models", "published-models")
_FILES = ("LOCK",)


def check_folders(config: Config, *, writes: bool) -> None:
    """Refuses folders that cannot be used, and warns if the disk is nearly full.

    Args:
        writes: whether the caller will write to the data folder.

    Raises:
        InvalidArgument: a file is where a folder belongs, or the reverse.
        Unavailable: this user may not write there.
    """
    _check_folder(config.data_dir, "data_dir", writes=writes)
    if config.backup_dir:
        # The folder is made on first need, and its disk may be mounted later.
        _check_folder(Path(config.backup_dir), "backup_dir", writes=False)
    for name in _FOLDERS:
        if (path := config.data_dir / name).exists() and not path.is_dir():
            raise InvalidArgument(f"{path} is a file where a folder belongs: move it away", field="data_dir")
    for name in _FILES:
        if (path := config.data_dir / name).is_dir():
            raise InvalidArgument(f"{path} is a folder where a file belongs: move it away", field="data_dir")
    free = shutil.disk_usage(_nearest(config.data_dir)).free
    if writes and free < config.min_free_disk_bytes:
        logger.warning(
            "%d MB are free for the data folder %s, less than min_free_disk_bytes: free some space",
            free // 2**20,
            config.data_dir,
        )


def _check_folder(folder: Path, field: str, *, writes: bool) -> None:
    nearest = _nearest(folder)
    if not nearest.is_dir():
        name = "--" + field.replace("_", "-")
        what = "a link to nothing" if nearest.is_symlink() else "a file"
        raise InvalidArgument(
            f"{nearest} is {what}, and a folder is needed there: move it away, or name another folder with {name}",
            field=field,
        )
    if writes and not os.access(nearest, os.W_OK | os.X_OK):
        raise Unavailable(
            f"this user may not write to {nearest}: change its owner or mode, or name another folder with --data-dir"
        )


def _nearest(folder: Path) -> Path:
    """The folder, or its nearest ancestor that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_symlink() or path.exists())
