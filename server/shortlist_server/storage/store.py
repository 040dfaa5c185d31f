"""The embedded store: a folder of collections, each a folder of its own.

    <data_dir>/LOCK                                held by the one process that has the store open
    <data_dir>/collections/<name>/collection.db    the truth
    <data_dir>/collections/<name>/segments/<uid>/  disposable indexes

The store opens a collection on first use and closes it when it is idle (``opening/open_cache.py``). All collections
share the store's threads, reading connections and clock. Any thread may call.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from shortlist_server.config import Config
from shortlist_server.domain import NEVER, Cancellation, CollectionConfig
from shortlist_server.errors import (
    CollectionNotFound,
    CommitsLost,
    DataCorrupted,
    InvalidArgument,
    NewerDataFormat,
    Overloaded,
    ShortlistError,
    Unavailable,
)
from shortlist_server.storage.backups.backup import remove_partial, write_backup
from shortlist_server.storage.backups.manifest import read_backup
from shortlist_server.storage.backups.restore import copy_back
from shortlist_server.storage.base import Lease
from shortlist_server.storage.clock import Clock
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.compaction.compactor import BUILDER
from shortlist_server.storage.disk import descriptors
from shortlist_server.storage.disk.collection_folders import CollectionFolders, check_name
from shortlist_server.storage.disk.data_folder import NAME, backup_folder, open_data_folder
from shortlist_server.storage.disk.faults import translated
from shortlist_server.storage.disk.files import CrashPoint, Files, pass_by
from shortlist_server.storage.layout import COLLECTIONS_FOLDER, DATABASE_FILE, REINDEXING_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.opening.identity import accept_loss, start_record
from shortlist_server.storage.opening.open_cache import OpenCollectionCache
from shortlist_server.storage.opening.survey import begin_survey
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.reports import Backup, Check, CollectionReport, Progress
from shortlist_server.storage.rows import schema
from shortlist_server.storage.rows.reader import KEPT_CONNECTIONS, ReadingConnections
from shortlist_server.storage.rows.reserve import Reserve
from shortlist_server.storage.verify import verify_collection

logger = logging.getLogger(__name__)

WRITING_THREADS = 8
"""Threads that the collections' writers share. A turn occupies one for a transaction and mostly waits for the disk."""

FLUSHING_THREADS = 2
MERGING_THREADS = 2
"""How many builds of segments run at once, each in a process that uses half of the cores."""


def open_store(config: Config) -> EmbeddedStore:
    """Opens the data folder, which is made if missing; collections are opened on first use.

    Raises:
        Unavailable: another process has the folder open.
    """
    return EmbeddedStore(config)


class EmbeddedStore:
    """A ``Store`` in a folder of this machine."""

    def __init__(
        self,
        config: Config,
        *,
        files: Files | None = None,
        crash_point: CrashPoint = pass_by,
        builder: Sequence[str] = BUILDER,
        maintain: bool = True,
    ) -> None:
        self._files = files or Files()
        self._crash_point = crash_point
        self._lock_file = open_data_folder(config)
        self._folders = CollectionFolders(config.data_dir / COLLECTIONS_FOLDER, self._files, crash_point)
        self._threads = {
            kind: ThreadPoolExecutor(most, thread_name_prefix=kind)
            for kind, most in {
                "segments": max(2, os.cpu_count() or 2),
                "writing": WRITING_THREADS,
                "flushing": FLUSHING_THREADS,
                "merging": MERGING_THREADS,
                "closing": 1,
            }.items()
        }
        self._clock = Clock()
        self._parameters = Parameters(
            config=config,
            files=self._files,
            crash_point=crash_point,
            builder=tuple(builder),
            reserve=Reserve(config.data_dir),
            pool=self._threads["segments"],
            writing_threads=self._threads["writing"],
            flushing_threads=self._threads["flushing"],
            merging_threads=self._threads["merging"],
            clock=self._clock,
            connections=ReadingConnections(),
            maintain=maintain,
        )
        self._open_cache = OpenCollectionCache(
            most=config.max_open_collections,
            most_descriptors=descriptors.share_of_collections() - 2 * KEPT_CONNECTIONS,
            idle_seconds=config.collection_idle_seconds,
            clock=self._clock,
            threads=self._threads["closing"],
        )
        self._lock = threading.Lock()
        self._collections: dict[str, EmbeddedCollection] = {}
        self._backing_up: set[Path] = set()
        self._folders.clean()
        remove_partial(backup_folder(config), self._files)

    def create(self, name: str, config: CollectionConfig, *, number_format: str = "") -> EmbeddedCollection:
        """Makes a collection, durably; see ``Store.create``."""
        check_name(name)

        def fill(temporary: Path) -> None:
            self._files.make_folder(temporary)
            self._files.make_folder(temporary / SEGMENTS_FOLDER)
            schema.create(temporary / DATABASE_FILE, name, config, number_format)
            start_record(temporary, name, self._files)
            self._crash_point("create:made")
            self._files.sync(temporary / DATABASE_FILE)
            self._files.sync_folder(temporary)

        return self._make(name, fill)

    def _make(self, name: str, fill: Callable[[Path], None]) -> EmbeddedCollection:
        with self._folders.naming(name), translated(name):
            self._folders.make(name, fill)
            # The collection exists, even if the others leave no room to open it now.
            with suppress(Overloaded):
                return self.open(name)
            return self.find(name)

    def find(self, name: str) -> EmbeddedCollection:
        """The collection of that name, open or not; see ``Store.find``."""
        known = self._collections.get(name)
        if known is not None:
            return known
        with self._folders.naming(name):
            known = self._collections.get(name)
            if known is None:
                folder = self._folders.existing(name)
                known = EmbeddedCollection(name, folder, self._parameters, self._open_cache)
                self._collections[name] = known
            return known

    def open(self, name: str) -> EmbeddedCollection:
        """Opens the collection of that name. It may be closed again when idle; its methods reopen it.

        Raises:
            CollectionNotFound, DataCorrupted, NewerDataFormat, Overloaded: as ``lease``.
        """
        with self.lease(name) as collection:
            return collection

    def lease(self, name: str) -> Lease[EmbeddedCollection]:
        """Opens the collection of that name and keeps it open; see ``Store.lease``."""
        collection = self.find(name)
        try:
            return collection.lease()
        except Unavailable:
            # It was dropped meanwhile, and a new one may have the name by now.
            if self._collections.get(name) is collection:
                raise
            return self.find(name).lease()

    def try_lease(self, name: str) -> Lease[EmbeddedCollection] | None:
        """Leases the collection if it is open already, else returns None; see ``Store.try_lease``."""
        collection = self._collections.get(name)
        return None if collection is None else collection.try_lease()

    @property
    def open_count(self) -> int:
        """How many collections are open."""
        return len(self._open_cache)

    def known(self) -> Sequence[EmbeddedCollection]:
        """The collections used or inspected since the start, most recently used first."""
        return sorted(self._collections.copy().values(), key=lambda one: (-one.unused_since, one.name))

    def open_all(self) -> bool:
        """Opens every collection, if all of them may stay open; if they are too many, returns False and does nothing.

        A damaged collection is logged and answers its own calls with the reason. It does not affect the others.
        """
        names = self.names()
        if len(names) > self._open_cache.most:
            return False
        for name in names:
            try:
                self.open(name)
            except (DataCorrupted, NewerDataFormat):
                continue  # Logged already.
            except ShortlistError as error:
                logger.error("collection '%s' cannot be opened: %s", name, error.message)
            except Exception:
                # One collection's fault must not keep the server from starting.
                logger.exception("collection '%s' cannot be opened", name)
        return True

    def survey(self) -> None:
        """Inspects each collection once, slowly and in the background, and so logs damage early. Never blocks."""
        begin_survey(
            self.names(),
            lambda name: self.find(name).info(),
            clock=self._clock,
            threads=self._threads["closing"],
        )

    def names(self) -> Sequence[str]:
        """Names of all collections, sorted."""
        return self._folders.names()

    def reindexing(self) -> Sequence[str]:
        """Names of the collections that have a generation to build; see ``Store.reindexing``."""
        return [name for name in self.names() if (self._folders.path(name) / REINDEXING_FILE).exists()]

    def drop(self, name: str) -> None:
        """Removes a collection and its files, durably. Calls in progress on it may raise ``Unavailable``."""
        with self._folders.naming(name), translated(name):
            self._folders.existing(name)
            collection = self._collections.pop(name, None)
            if collection is not None:
                collection.close()
            self._folders.remove(name)

    def backup(
        self,
        folder: Path,
        names: Sequence[str] | None = None,
        *,
        progress: Callable[[Progress], None] = lambda progress: None,
        cancellation: Cancellation = NEVER,
    ) -> Backup:
        """Backs up all collections, or the named ones, into a new folder; see ``write_backup``.

        Raises:
            OperationCancelled: the backup was cancelled; nothing is left of it.
            DataCorrupted: some collections cannot be opened; the message names each. Nothing was copied.
        """
        chosen = self._opened_all(
            self.names() if names is None else dict.fromkeys(names), cancellation, missing_ok=names is None
        )
        with self._lock:
            if folder in self._backing_up:
                raise InvalidArgument(f"a backup named {folder.name!r} is being made", field="folder")
            self._backing_up.add(folder)
        try:
            with translated(str(folder)):
                return write_backup(
                    chosen,
                    folder,
                    self._files,
                    progress=progress,
                    cancellation=cancellation,
                    crash_point=self._crash_point,
                )
        finally:
            with self._lock:
                self._backing_up.discard(folder)

    def backups(self, folder: Path) -> Sequence[Backup]:
        """The complete backups in a folder of backups, newest first; logs those whose ``backup.json`` is unusable."""
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            if NAME.fullmatch(path.name):
                try:
                    found.append(read_backup(path))
                except (InvalidArgument, DataCorrupted) as error:
                    logger.warning("%s is not listed: %s", path, error.message)
        return sorted(found, key=lambda backup: (-backup.create_time_seconds, backup.folder.name))

    def _opened_all(
        self, names: Iterable[str], cancellation: Cancellation, *, missing_ok: bool
    ) -> list[EmbeddedCollection]:
        """Opens these collections, or raises an error that names each damaged one.

        With ``missing_ok``, leaves out those that are dropped meanwhile.
        """
        found, damage = [], []
        for name in names:
            cancellation.check()
            try:
                found.append(self.open(name))
            except CollectionNotFound:
                if not missing_ok:
                    raise
            except DataCorrupted as error:
                damage.append(error)
        if damage:
            problems = "; ".join(error.message for error in damage)
            raise DataCorrupted(
                f"nothing was backed up, because some collections cannot be opened: {problems}. Back up the others by"
                " their names",
                metadata={"collection": ", ".join(error.metadata.get("collection", "") for error in damage)},
            )
        return found

    def restore(
        self,
        folder: Path,
        name: str,
        new_name: str | None = None,
        *,
        progress: Callable[[Progress], None] = lambda progress: None,
        cancellation: Cancellation = NEVER,
    ) -> EmbeddedCollection:
        """Makes a collection from a backup, durably, under its own name or a new one.

        Raises:
            OperationCancelled: the restore was cancelled; nothing is left of it.
            CollectionExists: a collection has that name already.
            CollectionNotFound: the backup has no collection of that name.
            InvalidArgument: the folder is not a backup, or the new name is not allowed.
            DataCorrupted: the backup is damaged.
        """
        target_name = new_name or name
        check_name(target_name)
        backup = read_backup(folder)

        def fill(temporary: Path) -> None:
            copy_back(backup, name, target_name, temporary, self._files, progress, cancellation)
            self._crash_point("restore:copied")
            cancellation.check()

        return self._make(target_name, fill)

    def verify(
        self,
        name: str,
        *,
        sample: int = 200,
        repair: bool = False,
        accept_loss: bool = False,
        progress: Callable[[str], None] = lambda step: None,
        cancellation: Cancellation = NEVER,
    ) -> CollectionReport:
        """Checks a collection, and with ``repair`` repairs it; see ``verify_collection``.

        If the collection cannot be opened, the report says so. With ``repair`` and ``accept_loss``, a collection that
        lacks acknowledged commits goes on without them.
        """
        repairs = []
        try:
            try:
                lease = self.lease(name)
            except CommitsLost:
                if not (repair and accept_loss):
                    raise
                repairs.append(self._accept_loss(name))
                logger.warning("collection '%s' was repaired: %s", name, repairs[-1])
                lease = self.lease(name)
        except DataCorrupted as error:
            return CollectionReport(name=name, checks=[Check(name="database", ok=False, detail=error.message)])
        with lease as collection:
            report = verify_collection(
                collection, sample=sample, repair=repair, progress=progress, cancellation=cancellation
            )
        report.repairs = repairs + report.repairs
        return report

    def _accept_loss(self, name: str) -> str:
        folder = self._folders.path(name)
        with translated(name):
            return self.find(name).while_closed(lambda: accept_loss(folder, name, self._files))

    def close(self) -> None:
        """Finishes pending commits, checkpoints and closes. Idempotent."""
        if not self._folders.close():
            return
        self._open_cache.close()
        for collection in list(self._collections.values()):
            collection.close()
        self._clock.close()
        for threads in self._threads.values():
            threads.shutdown()
        self._parameters.reserve.close()
        os.close(self._lock_file)
