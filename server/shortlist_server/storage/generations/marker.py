"""The file that says, without opening a collection, that it has a generation to build.

Written and synced before the commit after which a generation needs a build. A crash may leave it without need; the next
opening removes it. Belongs to the writer thread.
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
        self._needed = self._present

    def announce(self, counters: Counters) -> None:
        """Makes the file durable if a generation needs a build; called before the commit of the counters."""
        self._needed = needs_build(counters)
        if self._needed and not self._present:
            self._files.write(self._path, b"")
            self._files.sync(self._path)
            self._files.sync_folder(self._path.parent)
            self._present = True

    def settle(self) -> None:
        """Removes the file if no generation needs a build; called after a commit.

        Goes by the last change of the transaction, whichever change is shown first.
        """
        if self._present and not self._needed:
            self._files.remove(self._path)
            self._present = False


def needs_build(counters: Counters) -> bool:
    """Whether a generation is being built, or lacks documents that commits left out."""
    return any(
        row.state is GenerationState.BUILDING or not counters.is_complete(row)
        for row in counters.live
        if row.state is not GenerationState.SERVING
    )
