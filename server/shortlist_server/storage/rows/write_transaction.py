"""The SQL that changes a collection.

A ``WriteTransaction`` belongs to the writer thread, which begins and commits; this module changes rows and keeps the
counters. Keys, passage ids and sequences come from the counters, which only ever grow and are committed with the rows
they numbered. None is used twice, not even after a restart. Each transaction counts as one commit, which ``record``
writes down outside the database before the commit is acknowledged. The lexical index changes in the same transaction as
the documents, and so do the passages of every generation. ``generation_changes`` makes, builds and switches
generations.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import xor
from typing import TypeVar

from shortlist_server.domain import Change, CollectionConfig, Commit, DeadLetter, Deletion, StreamPosition, Upsert
from shortlist_server.errors import DataCorrupted, InvalidVector
from shortlist_server.storage.base import GenerationChanged
from shortlist_server.storage.disk.commit_record import CommitRecord, Mark
from shortlist_server.storage.disk.faults import lexical_index, translated
from shortlist_server.storage.rows import dead_letters, passages, settings
from shortlist_server.storage.rows.checksums import document_checksum, id_checksum, stream_checksum, text_checksum
from shortlist_server.storage.rows.counters import read_counters, write_counters
from shortlist_server.storage.rows.inserts import insert_rows
from shortlist_server.storage.rows.metadata import encode
from shortlist_server.storage.rows.passages import NewRows
from shortlist_server.storage.rows.tables import tables_of
from shortlist_server.storage.values import (
    Counters,
    Effect,
    GenerationDamaged,
    GenerationDropped,
    PassageChange,
    SegmentOutdated,
    SegmentRow,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DocumentRow = tuple[int, str, int, int, bytes, str, int, int, str, str]
"""A row of ``documents``, with its columns in the order of ``_DOCUMENT_COLUMNS``."""

_DOCUMENT_COLUMNS = (
    *("key", "id", "sequence", "passage_count", "content_hash"),
    *("metadata", "metadata_checksum", "text_checksum", "title", "text"),
)


class WriteTransaction:
    """Changes the rows of one collection within the writer's transaction."""

    def __init__(self, connection: sqlite3.Connection, record: CommitRecord) -> None:
        self.connection = connection
        self._record = record
        self.counters = read_counters(connection)
        self._uid: str = connection.execute("SELECT uid FROM counters").fetchone()[0]

    def save_counters(self, before: Counters) -> None:
        """Counts the commit and writes the counters; the writer calls it before each commit.

        Args:
            before: the counters as they are stored now.
        """
        now = self.counters = replace(self.counters, commits=self.counters.commits + 1)
        write_counters(self.connection, now, before)

    def record_commit(self) -> None:
        """Records the last commit outside the database; the writer calls it before it acknowledges the commit."""
        now = self.counters
        self._record.write(
            Mark(
                uid=self._uid,
                commits=now.commits,
                sequence=now.sequence,
                next_key=now.next_key,
                next_passage_id=now.next_passage_id,
            )
        )

    def apply(
        self, changes: Sequence[Change], position: StreamPosition | None, failures: Sequence[DeadLetter] = ()
    ) -> tuple[Commit, Effect]:
        """Applies changes, the stream position and the failures. The last change of each id wins.

        Raises:
            GenerationChanged: a document has no passages for the generation that serves; nothing is changed.
            InvalidVector: a vector for the serving generation has the wrong size or is not finite; nothing is changed.
            InvalidArgument: metadata is not JSON.
        """
        ids = [change.document.id if isinstance(change, Upsert) else change.id for change in changes]
        last = {id: at for at, id in enumerate(ids)}
        stored = self._stored(list(last))
        counters = self.counters
        serving = counters.serving.number
        effect = Effect(counters=counters)
        sequences = dict.fromkeys(last, 0)
        new_documents: list[_DocumentRow] = []
        new_rows = {row.number: NewRows(tables_of(row.number), row.config.dimension) for row in counters.live}
        brought: dict[int, dict[int, int]] = {number: {} for number in new_rows}
        sequence, key, passage_id = counters.sequence, counters.next_key, counters.next_passage_id
        ids_checksum = counters.ids_checksum
        for at, change in enumerate(changes):
            id = ids[at]
            if last[id] != at:
                continue
            sequence += 1
            sequences[id] = sequence
            if id in stored:
                effect.removed_keys.append(stored[id])
                ids_checksum ^= id_checksum(id, stored[id])
            if isinstance(change, Deletion):
                continue
            if serving not in change.passages:
                raise GenerationChanged(f"generation {serving} serves now, and the document has no passages for it")
            document = change.document
            ids_checksum ^= id_checksum(id, key)
            metadata = encode(document.metadata)
            new_documents.append(
                (
                    key,
                    id,
                    sequence,
                    len(change.passages[serving]),
                    change.content_hash,
                    metadata,
                    zlib.crc32(metadata.encode()),
                    text_checksum(document.title, document.text),
                    document.title,
                    document.text,
                )
            )
            for number, rows in new_rows.items():
                if number in change.passages:
                    brought[number][key] = len(change.passages[number])
                    passage_id = rows.add(key, change.passages[number], passage_id)
            key += 1
        packed = new_rows[serving].packed()
        self._remove_documents(effect.removed_keys)
        self._insert_documents(new_documents)
        dead_letters.settle(self.connection, list(last))
        if failures:
            dead_letters.add(self.connection, failures)
        if position is not None:
            self._record_position(position)
        self.counters = replace(
            counters,
            sequence=sequence,
            next_key=key,
            next_passage_id=passage_id,
            documents=counters.documents + len(new_documents) - len(effect.removed_keys),
            ids_checksum=ids_checksum,
        )
        for number, rows in new_rows.items():
            self._change_passages(number, effect, rows, brought[number], packed if number == serving else None)
        effect.counters = self.counters
        commit = Commit(
            sequences=[sequences[id] for id in ids],
            superseded=[last[id] != at for at, id in enumerate(ids)],
            existed=[id in stored for id in ids],
            last_sequence=sequence,
        )
        return commit, effect

    def remove(self, keys: Sequence[int]) -> Effect:
        """Deletes the documents that still exist; each deletion takes a sequence."""
        live = self.connection.execute(
            "SELECT key, id FROM documents WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(list(keys)),)
        ).fetchall()
        effect = Effect(counters=self.counters, removed_keys=[key for key, _ in live])
        self._remove_documents(effect.removed_keys)
        now = self.counters
        self.counters = replace(
            now,
            sequence=now.sequence + len(effect.removed_keys),
            documents=now.documents - len(effect.removed_keys),
            ids_checksum=reduce(xor, (id_checksum(id, key) for key, id in live), now.ids_checksum),
        )
        for row in now.live:
            self._change_passages(row.number, effect)
        effect.counters = self.counters
        return effect

    def _insert_documents(self, rows: Sequence[_DocumentRow]) -> None:
        insert_rows(self.connection, "documents", _DOCUMENT_COLUMNS, rows)
        with lexical_index():
            lexical = [(row[0], row[8], row[9]) for row in rows]
            insert_rows(self.connection, "lexical", ("rowid", "title", "text"), lexical)
        identities = [(row[0], document_checksum(*row[:5])) for row in rows]
        insert_rows(self.connection, "identities", ("key", "checksum"), identities)

    def _record_position(self, position: StreamPosition) -> None:
        self.connection.execute(
            "INSERT INTO streams (name, position, checksum) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET position = excluded.position, checksum = excluded.checksum",
            (position.stream, position.position, stream_checksum(position.stream, position.position)),
        )

    def _change_passages(
        self,
        number: int,
        effect: Effect,
        new: NewRows | None = None,
        brought: Mapping[int, int] | None = None,
        packed: Sequence[bytes] | None = None,
    ) -> None:
        """Removes and adds passages of one generation, and counts them in its row.

        An invalid vector for a generation that does not serve is no failure: that generation then lacks the documents.

        Args:
            brought: the number of passages for this generation of each new document that has some, by key.
            packed: the vectors, where they are checked already.

        Raises:
            GenerationDamaged: the tables of a generation that does not serve are damaged.
        """
        row = self.counters.find(number)
        assert row is not None
        if new is not None and packed is None:
            try:
                packed = new.packed()
            except InvalidVector as error:
                logger.error("generation %d lacks documents of a commit, for its build to make up: %s", number, error)
                new = brought = None

        def change() -> dict[int, list[int]]:
            removed = {}
            if effect.removed_keys:
                removed = passages.remove(self.connection, tables_of(number), effect.removed_keys)
            if new is not None and packed:
                new.insert(self.connection, packed)
            return removed

        try:
            with translated(f"generation {number}"):
                removed = change()
        except DataCorrupted as error:
            if number == self.counters.serving.number:
                raise
            raise GenerationDamaged(number, error.message) from error
        done = PassageChange() if new is None else new.change
        done.removed = [passage_id for passage_ids in removed.values() for passage_id in passage_ids]
        effect.passages[number] = done
        documents = row.documents - sum(key <= row.cursor or key in removed for key in effect.removed_keys)
        cursor = row.cursor
        for key, count in (brought or {}).items():
            # Keys are given out without gaps, so a generation that lacked nothing before lacks nothing now.
            cursor = key if cursor == key - 1 else cursor
            documents += count > 0 or cursor == key
        self.counters = self.counters.with_rows(
            replace(
                row,
                cursor=cursor,
                documents=documents,
                passages=row.passages + len(done.passage_ids) - len(done.removed),
            )
        )

    def mark_unusable(self, number: int, problem: str) -> None:
        """Records that a generation cannot be used any more; its segments leave the manifest."""
        row = self.counters.find(number)
        assert row is not None and row is not self.counters.serving
        logger.error("generation %d is not used any more; drop it and build it again: %s", number, problem)
        self.connection.execute("DELETE FROM segments WHERE generation = ?", (number,))
        self.counters = self.counters.with_rows(replace(row, problem=problem))

    def config(self) -> CollectionConfig:
        """The collection's settings, as changed by this transaction so far."""
        return settings.load(self._setting("config") or "")

    def raised_ef(self) -> settings.RaisedEf:
        """The raised ``ef`` values, as changed by this transaction so far."""
        return settings.load_raised_ef(self._setting("raised_ef"))

    def save_config(self, config: CollectionConfig) -> None:
        """Replaces the collection's settings."""
        settings.save(self.connection, "config", settings.dump(config))

    def save_raised_ef(self, raised: settings.RaisedEf) -> None:
        """Replaces the raised ``ef`` values."""
        settings.save(self.connection, "raised_ef", json.dumps(raised))

    def replace_segments(self, gone: Sequence[str], new: SegmentRow | None, generation: int = 1) -> None:
        """Replaces segments of a generation in the manifest; once this is committed, the new segment exists.

        Raises:
            GenerationDropped: the generation is being dropped, or cannot be used.
            SegmentOutdated: one of ``gone`` is not listed, or the new range overlaps that of a segment that stays.
        """
        row = self.counters.find(generation)
        if row is None or not row.is_live:
            raise GenerationDropped(f"generation {generation} is being dropped")
        deleted = self.connection.executemany("DELETE FROM segments WHERE uid = ?", [(uid,) for uid in gone])
        if gone and deleted.rowcount != len(gone):
            raise SegmentOutdated("a segment that was to be replaced no longer exists")
        if new is not None:
            overlaps = "SELECT EXISTS (SELECT 1 FROM segments WHERE generation = ? AND low < ? AND high > ?)"
            if self.connection.execute(overlaps, (generation, new.high, new.low)).fetchone()[0]:
                raise SegmentOutdated("another segment now covers passages of its range")
            self.connection.execute(
                "INSERT INTO segments (uid, generation, low, high, passages, checksum) VALUES (?, ?, ?, ?, ?, ?)",
                (new.uid, generation, new.low, new.high, new.passages, new.checksum),
            )

    def check_lexical(self) -> None:
        """Compares the lexical index with the documents.

        Raises:
            DataCorrupted: they differ; ``rebuild_lexical`` makes them agree.
        """
        with lexical_index():
            self.connection.execute("INSERT INTO lexical (lexical, rank) VALUES ('integrity-check', 1)")

    def rebuild_lexical(self) -> None:
        """Rebuilds the lexical index from the documents."""
        self.connection.execute("INSERT INTO lexical (lexical) VALUES ('rebuild')")

    def merge_lexical(self, pages: int) -> int:
        """Writes up to about this many pages of merged postings; returns the rows changed, under 2 once it is done."""
        before = self.connection.total_changes
        self.connection.execute("INSERT INTO lexical (lexical, rank) VALUES ('merge', ?)", (pages,))
        return self.connection.total_changes - before

    def reclaim(self, pages: int) -> int:
        """Gives up to this many free pages back to the file system; returns how many are still free."""
        (found,) = self.connection.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(pages, found)):
            # Python's module takes a single step of a statement without columns, and a step frees one page.
            self.connection.execute("PRAGMA incremental_vacuum(1)")
        free: int = self.connection.execute("PRAGMA freelist_count").fetchone()[0]
        return free

    def _setting(self, name: str) -> str | None:
        row = self.connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _stored(self, ids: list[str]) -> dict[str, int]:
        """Key of each id that exists, checked: a wrong key from a damaged index would delete another document."""
        rows = self.connection.execute(
            "SELECT id, key, sequence, passage_count, content_hash, checksum FROM documents"
            " LEFT JOIN identities USING (key) WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids, ensure_ascii=False),),
        )
        found = {}
        for id, key, sequence, count, content_hash, checksum in rows:
            if document_checksum(key, id, sequence, count, content_hash) != checksum:
                raise DataCorrupted(f"the identity of document {id!r} is damaged on disk; restore a backup")
            found[id] = key
        return found

    def _remove_documents(self, keys: Sequence[int]) -> None:
        """Removes documents and their words; their passages go with ``_change_passages``."""
        if not keys:
            return
        run = self.connection.execute
        chosen = (json.dumps(list(keys)),)
        # FTS5 with external content needs the old text to find its postings, so its rows are deleted first.
        with lexical_index():
            run(
                "INSERT INTO lexical (lexical, rowid, title, text) SELECT 'delete', key, title, text FROM documents"
                " WHERE key IN (SELECT value FROM json_each(?))",
                chosen,
            )
        run("DELETE FROM identities WHERE key IN (SELECT value FROM json_each(?))", chosen)
        run("DELETE FROM documents WHERE key IN (SELECT value FROM json_each(?))", chosen)
