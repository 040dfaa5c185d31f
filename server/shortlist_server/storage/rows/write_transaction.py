"""The SQL that changes a collection.

A ``WriteTransaction`` belongs to the writer thread, which begins and commits; this module changes rows and keeps the
counters. Keys, labels and sequences come from the counters, which only ever grow and are committed with the rows they
numbered. None is used twice, not even after a restart. Each transaction counts as one commit, which ``record`` writes
down outside the database before the commit is acknowledged. The lexical index changes in the same transaction as the
documents.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import xor

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Change, CollectionConfig, Commit, DeadLetter, Deletion, StreamPosition, Upsert
from shortlist_server.errors import DataCorrupted, InvalidVector
from shortlist_server.storage.disk.commit_record import CommitRecord, Mark
from shortlist_server.storage.disk.faults import lexical_index
from shortlist_server.storage.rows import dead_letters, settings
from shortlist_server.storage.rows.checksums import (
    document_checksum,
    id_checksum,
    passage_checksum,
    stream_checksum,
    text_checksum,
)
from shortlist_server.storage.rows.metadata import encode
from shortlist_server.storage.values import Counters, Effect, SegmentOutdated, SegmentRow


class WriteTransaction:
    """Changes the rows of one collection within the writer's transaction."""

    def __init__(self, connection: sqlite3.Connection, dimension: int, record: CommitRecord) -> None:
        self.connection = connection
        self._dimension = dimension
        self._record = record
        row = connection.execute(
            "SELECT sequence, next_key, next_label, documents, passages, commits, ids_checksum, uid FROM counters"
        ).fetchone()
        self.counters = Counters(
            sequence=row[0],
            next_key=row[1],
            next_label=row[2],
            documents=row[3],
            passages=row[4],
            commits=row[5],
            ids_checksum=row[6],
        )
        self._uid: str = row[7]

    def save_counters(self) -> None:
        """Counts the commit and writes the counters; the writer calls it before each commit."""
        now = self.counters = replace(self.counters, commits=self.counters.commits + 1)
        self.connection.execute(
            "UPDATE counters SET sequence = ?, next_key = ?, next_label = ?, documents = ?, passages = ?, commits = ?,"
            " ids_checksum = ? WHERE id = 1",
            (
                now.sequence,
                now.next_key,
                now.next_label,
                now.documents,
                now.passages,
                now.commits,
                now.ids_checksum,
            ),
        )

    def record_commit(self) -> None:
        """Records the last commit outside the database; the writer calls it before it acknowledges the commit."""
        now = self.counters
        self._record.write(
            Mark(
                uid=self._uid,
                commits=now.commits,
                sequence=now.sequence,
                next_key=now.next_key,
                next_label=now.next_label,
            )
        )

    def apply(
        self, changes: Sequence[Change], position: StreamPosition | None, failures: Sequence[DeadLetter] = ()
    ) -> tuple[Commit, Effect]:
        """Applies changes, the stream position and the failures. The last change of each id wins.

        Raises:
            InvalidVector: a passage's vector has the wrong size or is not finite; nothing is changed.
            InvalidArgument: metadata is not JSON.
        """
        ids = [change.document.id if isinstance(change, Upsert) else change.id for change in changes]
        last = {id: at for at, id in enumerate(ids)}
        stored = self._stored(list(last))
        counters = self.counters
        effect = Effect(counters=counters)
        sequences = dict.fromkeys(last, 0)
        new_documents: list[tuple[int, str, int, int, bytes, str, int, int, str, str]] = []
        new_passages: list[tuple[int, int, int, int, int, int, int]] = []
        new_token_vectors: list[tuple[int, bytes]] = []
        sequence, key, label = counters.sequence, counters.next_key, counters.next_label
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
            document = change.document
            ids_checksum ^= id_checksum(id, key)
            metadata = encode(document.metadata)
            new_documents.append(
                (
                    key,
                    id,
                    sequence,
                    len(change.passages),
                    change.content_hash,
                    metadata,
                    zlib.crc32(metadata.encode()),
                    text_checksum(document.title, document.text),
                    document.title,
                    document.text,
                )
            )
            for ordinal, passage in enumerate(change.passages):
                effect.labels.append(label)
                effect.keys.append(key)
                effect.vectors.append(passage.vector)
                row = (label, key, ordinal, passage.start, passage.end, passage.tokens)
                new_passages.append((*row, passage_checksum(*row)))
                if passage.token_vectors is not None:
                    new_token_vectors.append((label, passage.token_vectors))
                label += 1
            key += 1
        vectors = self._checked(effect.vectors)
        effect.removed_labels = self._remove(effect.removed_keys)
        insert = self.connection.executemany
        insert(
            "INSERT INTO documents (key, id, sequence, passage_count, content_hash, metadata, metadata_checksum,"
            " text_checksum, title, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            new_documents,
        )
        with lexical_index():
            insert(
                "INSERT INTO lexical (rowid, title, text) VALUES (?, ?, ?)",
                [(row[0], row[8], row[9]) for row in new_documents],
            )
        insert(
            "INSERT INTO identities (key, checksum) VALUES (?, ?)",
            [(row[0], document_checksum(*row[:5])) for row in new_documents],
        )
        insert(
            "INSERT INTO passages (label, key, ordinal, start, end, tokens, row_checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",
            new_passages,
        )
        insert(
            "INSERT INTO vectors (label, checksum, vector) VALUES (?, ?, ?)",
            [(label, zlib.crc32(vector), vector) for label, vector in zip(effect.labels, vectors, strict=True)],
        )
        insert("INSERT INTO token_vectors (label, vectors) VALUES (?, ?)", new_token_vectors)
        dead_letters.settle(self.connection, list(last))
        if failures:
            dead_letters.add(self.connection, failures)
        if position is not None:
            self.connection.execute(
                "INSERT INTO streams (name, position, checksum) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET position = excluded.position, checksum = excluded.checksum",
                (position.stream, position.position, stream_checksum(position.stream, position.position)),
            )
        self.counters = replace(
            counters,
            sequence=sequence,
            next_key=key,
            next_label=label,
            documents=counters.documents + len(new_documents) - len(effect.removed_keys),
            passages=counters.passages + len(new_passages) - len(effect.removed_labels),
            ids_checksum=ids_checksum,
        )
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
        effect.removed_labels = self._remove(effect.removed_keys)
        now = self.counters
        self.counters = replace(
            now,
            sequence=now.sequence + len(effect.removed_keys),
            documents=now.documents - len(effect.removed_keys),
            passages=now.passages - len(effect.removed_labels),
            ids_checksum=reduce(xor, (id_checksum(id, key) for key, id in live), now.ids_checksum),
        )
        effect.counters = self.counters
        return effect

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

    def replace_segments(self, gone: Sequence[str], new: SegmentRow | None) -> None:
        """Replaces segments in the manifest; once this is committed, the new segment exists.

        Raises:
            SegmentOutdated: one of ``gone`` is not listed, or the new range overlaps that of a segment that stays.
        """
        deleted = self.connection.executemany("DELETE FROM segments WHERE uid = ?", [(uid,) for uid in gone])
        if gone and deleted.rowcount != len(gone):
            raise SegmentOutdated("a segment that was to be replaced no longer exists")
        if new is not None:
            overlaps = "SELECT EXISTS (SELECT 1 FROM segments WHERE low < ? AND high > ?)"
            if self.connection.execute(overlaps, (new.high, new.low)).fetchone()[0]:
                raise SegmentOutdated("another segment now covers passages of its range")
            self.connection.execute(
                "INSERT INTO segments (uid, low, high, passages, checksum) VALUES (?, ?, ?, ?, ?)",
                (new.uid, new.low, new.high, new.passages, new.checksum),
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
        # The pragma yields a row for each page, and frees only the pages whose rows are fetched.
        self.connection.execute(f"PRAGMA incremental_vacuum({int(pages)})").fetchall()
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

    def _checked(self, vectors: Sequence[NDArray[np.float32]]) -> list[bytes]:
        if any(vector.shape != (self._dimension,) for vector in vectors):
            raise InvalidVector(f"a passage's vector must have {self._dimension} dimensions", field="vector")
        if not vectors:
            return []
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        # Any element that is not finite makes the sum not finite: one pass, and no mask of the same size.
        if not np.isfinite(np.sum(matrix, dtype=np.float64)):
            raise InvalidVector("a passage's vector has an element that is not finite", field="vector")
        return [row.tobytes() for row in matrix]

    def _remove(self, keys: Sequence[int]) -> list[int]:
        if not keys:
            return []
        run = self.connection.execute
        chosen = (json.dumps(list(keys)),)
        # FTS5 with external content needs the old text to find its postings, so its rows are deleted first.
        with lexical_index():
            run(
                "INSERT INTO lexical (lexical, rowid, title, text) SELECT 'delete', key, title, text FROM documents"
                " WHERE key IN (SELECT value FROM json_each(?))",
                chosen,
            )
        labels = [
            row[0] for row in run("SELECT label FROM passages WHERE key IN (SELECT value FROM json_each(?))", chosen)
        ]
        gone = (json.dumps(labels),)
        run("DELETE FROM vectors WHERE label IN (SELECT value FROM json_each(?))", gone)
        run("DELETE FROM token_vectors WHERE label IN (SELECT value FROM json_each(?))", gone)
        run("DELETE FROM passages WHERE label IN (SELECT value FROM json_each(?))", gone)
        run("DELETE FROM identities WHERE key IN (SELECT value FROM json_each(?))", chosen)
        run("DELETE FROM documents WHERE key IN (SELECT value FROM json_each(?))", chosen)
        return labels
