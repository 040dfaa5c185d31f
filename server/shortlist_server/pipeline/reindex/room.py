"""How much room a build may take on the data folder's disk. Any thread."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.errors import OutOfSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The disk of the data folder.

    Attributes:
        min_free_bytes: what no build may take, so that writes and switches have it.
    """

    data_dir: Path
    min_free_bytes: int

    def free_bytes(self) -> int:
        """Bytes that a build may take now."""
        return max(shutil.disk_usage(self.data_dir).free - self.min_free_bytes, 0)

    def check(self) -> None:
        """Raises ``OutOfSpace`` if a build may take nothing."""
        if not self.free_bytes():
            raise OutOfSpace(
                f"less than {self.min_free_bytes} bytes are free on the disk (min_free_disk_bytes), and the rest is for"
                " writes: free some space, or cancel the reindex",
                metadata={"needed_bytes": str(self.min_free_bytes), "free_bytes": "0"},
            )
