"""The file that tells, without opening a collection, that it has a generation to build.

It exists whenever a generation lacks documents or waits for its switch, from before the commit that makes this so. It
may outlive that: the next opening removes it. Belongs to the writer thread.
"""

from __future__ import annotations

from pathlib import Path

from shortlist_server.domain import GenerationState
from shortlist_server.storage.disk.files import Files
from shortlist_server.storage.layout import REINDEXING_FILE
from shortlist_server.storage.values import Counters


class ReindexMarker:
    """The marker of one collection."""

    def __init__(self, folder: Path, files: Files) -> None:
        """``folder``: the collection's."""
        self._path = folder / REINDEXING_FILE
        self._files = files
        self._present = self._path.exists()

    def announce(self, counters: Counters) -> None:
        """Makes the file durable if a generation needs a build; called before the commit of the counters."""
        if not self._present and needs_build(counters):
            self._files.write(self._path, b"")
            self._files.sync(self._path)
            self._files.sync_folder(self._path.parent)
            self._present = True

    def settle(self, counters: Counters) -> None:
        """Removes the file if no generation needs a build; called after the commit of the counters."""
        if self._present and not needs_build(counters):
            self._files.remove(self._path)
            self._present = False


def needs_build(counters: Counters) -> bool:
    """Whether a generation is being built, or lacks documents that commits left out."""
    return any(
        row.state is GenerationState.BUILDING or not counters.is_complete(row)
        for row in counters.live
        if row.state is not GenerationState.SERVING
    )
