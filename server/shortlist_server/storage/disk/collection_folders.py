"""The folders of a store's collections: makes them, drops them, and lists their names.

A collection is made under a temporary name and renamed when complete. To drop one, its folder is renamed before it is
removed. A collection's folder is therefore either complete or absent. The temporary names start with a dot; ``clean``
removes what a crash left under them. Any thread may call.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from shortlist_server.errors import CollectionExists, CollectionNotFound, InvalidArgument, Unavailable
from shortlist_server.storage.disk.data_folder import NAME
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.disk.files import CrashPoint, Files


class CollectionFolders:
    """The folders of one store's collections."""

    def __init__(self, folder: Path, files: Files, crash_point: CrashPoint) -> None:
        self._folder = folder
        self._files = files
        self._crash_point = crash_point
        self._lock = threading.Lock()
        # Locks exist only while held, so requests for unknown names cannot grow the table.
        self._name_locks: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()
        self._closed = False

    def clean(self) -> None:
        """Removes what a crash left of folders being made or dropped; called before any other thread."""
        for path in self._folder.iterdir():
            if path.name.startswith("."):
                self._files.remove_tree(path)

    def path(self, name: str) -> Path:
        """Where the folder of that name is, or would be."""
        return self._folder / name

    def names(self) -> Sequence[str]:
        """Names of all collections, sorted."""
        with translated("all"), os.scandir(self._folder) as entries:
            return sorted(entry.name for entry in entries if NAME.fullmatch(entry.name) and entry.is_dir())

    def existing(self, name: str) -> Path:
        """The folder of a collection. Raises ``CollectionNotFound``."""
        path = self._folder / name
        if NAME.fullmatch(name) is None or not path.is_dir():
            raise CollectionNotFound(f"there is no collection {name!r}", metadata={"collection": name})
        return path

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Locks the name for the block: no other thread makes, finds or drops a collection of this name."""
        # One lock for each name, so a collection that opens slowly does not delay the others.
        with self._lock:
            if self._closed:
                raise Unavailable("the store is closed")
            lock = self._name_locks.setdefault(name, threading.RLock())
        with lock:
            yield

    def make(self, name: str, fill: Callable[[Path], None]) -> None:
        """Makes a folder that ``fill`` fills and syncs, durably; the caller is ``naming`` it.

        Raises:
            CollectionExists: there is one of that name.
        """
        target = self._folder / name
        if target.exists():
            raise CollectionExists(f"collection '{name}' exists", metadata={"collection": name})
        temporary = self._folder / f".creating-{uuid.uuid4().hex}"
        try:
            fill(temporary)
            self._files.rename(temporary, target)
            self._crash_point("create:renamed")
            self._files.sync_folder(self._folder)
        except BaseException:
            self._files.remove_tree(temporary)
            raise

    def remove(self, name: str) -> None:
        """Removes a folder, durably; the caller is ``naming`` it, and has closed what was open there."""
        dropped = self._folder / f".dropped-{uuid.uuid4().hex}"
        self._files.rename(self._folder / name, dropped)
        self._crash_point("drop:renamed")
        self._files.sync_folder(self._folder)
        self._files.remove_tree(dropped)

    def close(self) -> bool:
        """From now on ``naming`` raises ``Unavailable``; returns False if it did so already."""
        with self._lock:
            was_closed, self._closed = self._closed, True
            return not was_closed


def check_name(name: str) -> None:
    """Refuses a name that a collection may not have.

    Raises:
        InvalidArgument: the name is not 1 to 64 of a-z, 0-9, "_" and "-", starting with a letter or digit.
    """
    if NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f"collection name {name!r} is not 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit",
            field="name",
        )
