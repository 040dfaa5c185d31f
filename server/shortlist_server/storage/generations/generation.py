"""One generation of an open collection: its dense index, its compaction, and who reads it.

The writer thread changes the index. Any thread may begin and end a use; uses keep the rows and files of a generation in
place after it was dropped.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shortlist_server.domain import GenerationConfig
from shortlist_server.errors import DataCorrupted
from shortlist_server.storage import footprint
from shortlist_server.storage.compaction.recovery import Place, Recovered, recover
from shortlist_server.storage.compaction.scheduler import CompactionScheduler, CompactionTally
from shortlist_server.storage.layout import DATA_FILES, MANIFEST_FILE, SEGMENTS_FOLDER
from shortlist_server.storage.parameters import Parameters
from shortlist_server.storage.rows.tables import Tables, tables_of
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.values import GenerationRow, PassageChange, Totals
from shortlist_server.storage.vectors.growing import GrowingSegment
from shortlist_server.storage.vectors.index import DenseIndex

Submit = Callable[[Task[Any]], Future[Any]]

_SAMPLED_ROWS = 16


class OpenGeneration:
    """A generation that can be read and written.

    Attributes:
        place: where its passages and segments are.
        tables: its tables.
        index: its vectors.
        compaction: flushes and merges its segments.
        damage: the segments that its opening dropped.
        gone: whether its rows may be gone; it then can no longer be read.
    """

    def __init__(
        self,
        row: GenerationRow,
        place: Place,
        recovered: Recovered,
        totals: Totals,
        submit: Submit,
        parameters: Parameters,
        tally: CompactionTally,
    ) -> None:
        self.number = row.number
        self.config: GenerationConfig = row.config
        self.place = place
        self.tables: Tables = tables_of(row.number)
        self.damage = recovered.damage
        self.index = DenseIndex(recovered.segments, recovered.growing, totals)
        self.compaction = CompactionScheduler(place, self.index, submit, parameters, tally)
        self.gone = False
        self._token_bytes = 0.0
        self._segment_bytes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._uses = 0
        self._when_unused: Callable[[], None] | None = None

    @classmethod
    def empty(
        cls,
        row: GenerationRow,
        place: Place,
        totals: Totals,
        submit: Submit,
        parameters: Parameters,
        tally: CompactionTally,
    ) -> OpenGeneration:
        """A generation that was just made."""
        recovered = Recovered(segments=(), growing=GrowingSegment(place.dimension), damage=())
        return cls(row, place, recovered, totals, submit, parameters, tally)

    @classmethod
    def recovered(
        cls,
        connection: sqlite3.Connection,
        row: GenerationRow,
        place: Place,
        totals: Totals,
        submit: Submit,
        parameters: Parameters,
        tally: CompactionTally,
    ) -> OpenGeneration:
        """A generation as the database and the segments have it.

        Raises:
            DataCorrupted: its tables are damaged.
            Overloaded: the limit of open files is reached.
        """
        recovered = recover(connection, place, parameters.files)
        found = sum(segment.live for segment in recovered.segments) + recovered.growing.live
        if found != row.passages:
            raise DataCorrupted(
                f"collection '{place.name}' counts {row.passages} passages in generation {row.number} but holds"
                f" {found}; restore a backup"
            )
        opened = cls(row, place, recovered, totals, submit, parameters, tally)
        mean = connection.execute(
            f"SELECT avg(length(vectors)) FROM (SELECT vectors FROM {opened.tables.token_vectors} LIMIT ?)",  # noqa: S608
            (_SAMPLED_ROWS,),
        ).fetchone()[0]
        opened._token_bytes = mean or 0.0
        return opened

    def publish(self, change: PassageChange | None, totals: Totals) -> None:
        """Shows a committed change; None where it touched no passage of this generation. Writer thread only."""
        self.index.publish(change, totals)
        if change is not None and change.passage_ids:
            new = change.token_bytes / len(change.passage_ids)
            self._token_bytes = new if not self._token_bytes else 0.9 * self._token_bytes + 0.1 * new
        self.compaction.changed()

    def disk_bytes(self, *, look: bool = True) -> int:
        """Bytes of its segments, and an estimate for its rows. Cheap: a segment's files are looked at once.

        Without ``look``, segments that are new since the last call do not count, and no file is looked at.
        """
        snapshot = self.index.snapshot
        known = self._segment_bytes
        self._segment_bytes = {
            segment.row.uid: known.get(segment.row.uid) or (_folder_bytes(self.place, segment.row.uid) if look else 0)
            for segment in snapshot.segments
        }
        return sum(self._segment_bytes.values()) + rows_bytes(
            snapshot.passages, self.place.dimension, self._token_bytes
        )

    def begin(self) -> bool:
        """Begins a use; False if the generation was dropped. Never blocks."""
        with self._lock:
            if self._when_unused is not None or self.gone:
                return False
            self._uses += 1
            return True

    def end(self) -> None:
        """Ends a use."""
        with self._lock:
            self._uses -= 1
            then = self._when_unused if not self._uses else None
        if then is not None:
            then()

    def retire(self, then: Callable[[], None]) -> None:
        """Refuses new uses from now on, and calls ``then`` when none is left: now, or at the end of the last."""
        with self._lock:
            self._when_unused = then
            unused = not self._uses
        if unused:
            then()


def rows_bytes(passages: int, dimension: int, token_bytes: float = 0.0) -> int:
    """An estimate of the bytes of some passages' rows; ``token_bytes``: of the token vectors of one passage."""
    sample = [round(token_bytes)] if token_bytes else []
    return footprint.disk_bytes(passages, dimension, sample, segments=False)


def _folder_bytes(place: Place, uid: str) -> int:
    total = 0
    for name in (*DATA_FILES, MANIFEST_FILE):
        try:
            total += (place.folder / SEGMENTS_FOLDER / uid / name).stat().st_size
        except OSError:
            # A segment of an early format lacks one file; another may have been replaced meanwhile.
            continue
    return total
