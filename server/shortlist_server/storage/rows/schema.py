"""The database of a collection: its connections, tables and migrations.

``user_version`` is the number of the last migration. A larger number means that a newer release wrote the database; it
is refused before anything is read. SQLite does not notice a flipped bit in a value, so vectors, texts, metadata and the
columns that say what belongs to what carry a CRC-32, which every read checks. Each migration runs in one transaction
together with its record. The large columns have tables of their own, so a scan of the passages reads only a few bytes
of each. Threads do not share connections.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from shortlist_server.domain import CollectionConfig
from shortlist_server.errors import DataCorrupted, NewerDataFormat
from shortlist_server.storage.disk.files import new_file
from shortlist_server.storage.rows import dead_letters, generations, settings
from shortlist_server.storage.rows.checksums import document_checksum, passage_checksum, stream_checksum
from shortlist_server.storage.rows.filters import index_columns
from shortlist_server.storage.rows.id_index import all_ids
from shortlist_server.storage.rows.metadata import parse_field

SCHEMA_VERSION = 6
"""Number of the newest migration."""

FIRST_FORMAT_WITH_COMMITS = 4
"""The first format that counts commits, so a record outside the database can be compared with it."""

FIRST_FORMAT_WITH_GENERATIONS = 5
"""The first format with a table of generations; what an earlier one holds is generation 1."""

APPLICATION_ID = 0x53484C53
"""Marks a SQLite file as a Shortlist collection ("SHLS")."""

TITLE_WEIGHT = 2.0
"""Weight of the title in BM25, where the text has 1; measured on SciFact."""

# 8 KiB holds five vectors of 384 dimensions with 5 % to spare; 4 KiB holds two and wastes a quarter.
PAGE_BYTES = 8192
_WAL_PAGES = 4096

migrations = Migrations("shortlist")


@migrations(name="0001_first")
def _first(db: Database) -> None:
    db.table("settings").create({"name": str, "value": str}, pk="name", not_null={"value"}, strict=True)
    db.table("counters").create(
        {"id": int, "sequence": int, "next_key": int, "next_label": int, "documents": int, "passages": int},
        pk="id",
        strict=True,
    )
    db.table("counters").insert({"id": 1, "sequence": 0, "next_key": 1, "next_label": 1, "documents": 0, "passages": 0})
    # Metadata comes before the text, so a filter never reads a document's overflow pages.
    db.table("documents").create(
        {
            "key": int,
            "id": str,
            "sequence": int,
            "passage_count": int,
            "content_hash": bytes,
            "metadata": str,
            "metadata_checksum": int,
            "text_checksum": int,
            "title": str,
            "text": str,
        },
        pk="key",
        not_null={
            "id",
            "sequence",
            "passage_count",
            "content_hash",
            "metadata",
            "metadata_checksum",
            "text_checksum",
            "title",
            "text",
        },
        strict=True,
    )
    db.table("documents").create_index(["id"], unique=True, index_name="documents_by_id")
    db.table("documents").create_index(["sequence"], unique=True, index_name="documents_by_sequence")
    columns = {"label": int, "key": int, "ordinal": int, "start": int, "end": int, "tokens": int}
    db.table("passages").create(columns, pk="label", not_null=set(columns) - {"label"}, strict=True)
    db.table("passages").create_index(["key"], index_name="passages_by_key")
    db.table("vectors").create(
        {"label": int, "checksum": int, "vector": bytes}, pk="label", not_null={"checksum", "vector"}, strict=True
    )
    db.table("token_vectors").create({"label": int, "vectors": bytes}, pk="label", not_null={"vectors"}, strict=True)
    db.table("streams").create({"name": str, "position": int}, pk="name", not_null={"position"}, strict=True)
    db.table("segments").create(
        {"uid": str, "low": int, "high": int, "passages": int, "checksum": str},
        pk="uid",
        not_null={"low", "high", "passages", "checksum"},
        strict=True,
    )
    db.execute(
        "CREATE VIRTUAL TABLE lexical USING fts5(title, text, content='documents', content_rowid='key',"
        " tokenize='porter unicode61')"
    )
    db.execute(f"INSERT INTO lexical(lexical, rank) VALUES ('rank', 'bm25({TITLE_WEIGHT}, 1.0)')")  # noqa: S608
    db.execute("PRAGMA user_version = 1")


@migrations(name="0002_quarantine")
def _quarantine(db: Database) -> None:
    dead_letters.create_table(db)
    db.execute("PRAGMA user_version = 2")


@migrations(name="0003_recall_target")
def _recall_target(db: Database) -> None:
    # No table changes. From this version on, a config may have the key "recall_target", unknown to older releases.
    db.execute("PRAGMA user_version = 3")


@migrations(name="0004_commits_and_checksums")
def _commits_and_checksums(db: Database) -> None:
    # A table of its own: reading a column behind the text costs a walk over the text's pages, and adding one before it
    # rewrites every row.
    db.execute("CREATE TABLE identities (key INTEGER PRIMARY KEY, checksum INTEGER NOT NULL) STRICT")
    for table, column, kind in (
        ("counters", "commits", "INTEGER NOT NULL DEFAULT 0"),
        ("counters", "uid", "TEXT NOT NULL DEFAULT ''"),
        ("counters", "ids_checksum", "INTEGER NOT NULL DEFAULT 0"),
        ("passages", "row_checksum", "INTEGER NOT NULL DEFAULT 0"),
        ("streams", "checksum", "INTEGER NOT NULL DEFAULT 0"),
    ):
        db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    for name, function in (("document", document_checksum), ("passage", passage_checksum), ("stream", stream_checksum)):
        db.conn.create_function(f"{name}_checksum", -1, function, deterministic=True)
    db.execute(
        "INSERT INTO identities SELECT key, document_checksum(key, id, sequence, passage_count, content_hash)"
        " FROM documents"
    )
    db.execute('UPDATE passages SET row_checksum = passage_checksum(label, key, ordinal, start, "end", tokens)')
    db.execute("UPDATE streams SET checksum = stream_checksum(name, position)")
    db.execute("UPDATE counters SET ids_checksum = ?", (all_ids(db.conn),))
    settings.identify(db.conn)
    db.execute("PRAGMA user_version = 4")


@migrations(name="0005_generations")
def _generations(db: Database) -> None:
    # From this version on, documents.passage_count is the count in the generation that served when the document was
    # written. It stays in the checksum of the document's identity; what readers get is counted in their generation.
    generations.create_table(db.conn)
    db.execute("ALTER TABLE segments ADD COLUMN generation INTEGER NOT NULL DEFAULT 1")
    db.execute("ALTER TABLE counters ADD COLUMN last_generation INTEGER NOT NULL DEFAULT 1")
    stored = read_settings(db.conn)
    if "config" in stored:
        try:
            first = generations.first(settings.load(stored["config"]), float(stored["create_time"]))
        except (KeyError, ValueError, TypeError) as error:
            raise DataCorrupted(f"the collection's settings cannot be read ({error}); restore a backup") from error
        generations.save(db.conn, [first], ())
    db.execute("PRAGMA user_version = 5")


@migrations(name="0006_rerank_stages")
def _rerank_stages(db: Database) -> None:
    # No table changes. From this version on, a config may have the key "rerank_stages", unknown to older releases.
    db.execute("PRAGMA user_version = 6")


def create(path: Path, name: str, config: CollectionConfig, number_format: str = "") -> None:
    """Makes the database of a new, empty collection: complete and checkpointed, but not synced.

    ``number_format`` is what the embedder computes in; see ``GenerationConfig``.
    """
    # Made before SQLite opens it, so SQLite gives the log and the shared memory the same narrow permissions.
    new_file(path)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _tune(connection)
        # Nobody knows of the file yet, and the caller syncs it when it is whole. This saves about a hundred syncs.
        connection.execute("PRAGMA synchronous = OFF")
        db = Database(connection)
        migrations.apply(db)
        with db.atomic():
            for number, field in enumerate(config.filterable_fields):
                db.execute(f"CREATE INDEX field_{number} ON documents ({index_columns(parse_field(field))})")
            now = time.time()
            generations.save(connection, [generations.first(config, now, number_format)], ())
            db.table("settings").insert_all(
                [
                    {"name": "name", "value": name},
                    {"name": "uid", "value": uuid.uuid4().hex},
                    {"name": "create_time", "value": repr(now)},
                    {"name": "config", "value": settings.dump(config)},
                ]
            )
            settings.identify(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def open_writer(path: Path, name: str) -> sqlite3.Connection:
    """The writing connection of an existing collection, with its migrations applied.

    Raises:
        DataCorrupted: the file is missing, damaged, or not a collection.
        NewerDataFormat: a newer release wrote it.
    """
    connection = _connect(path, name)
    try:
        format = check_format(connection, name)
        _tune(connection)
        if format < SCHEMA_VERSION:
            migrations.apply(Database(connection))
    except BaseException:
        connection.close()
        raise
    return connection


def open_untouched(path: Path, name: str) -> sqlite3.Connection:
    """A connection that changes no file, not even by a checkpoint at its end: for inspection before the first write.

    Raises:
        DataCorrupted: the file is missing.
    """
    return _connect(path, name, "ro")


def check_format(connection: sqlite3.Connection, name: str) -> int:
    """The data format of a database.

    Raises:
        DataCorrupted: the database is not a collection.
        NewerDataFormat: a newer release wrote it.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise DataCorrupted(f"the database of collection '{name}' is not a Shortlist collection; restore a backup")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise NewerDataFormat(
            f"collection '{name}' has data format {version}, and this release knows formats up to {SCHEMA_VERSION};"
            " use the newer release",
            metadata={"collection": name, "format": str(version), "supported": str(SCHEMA_VERSION)},
        )
    return version


def open_reader(path: Path, name: str) -> sqlite3.Connection:
    """A connection that cannot write."""
    connection = _connect(path, name)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -16384")
    return connection


def read_settings(connection: sqlite3.Connection) -> dict[str, str]:
    """Name, uid, create_time and config of the collection, and raised_ef if it was raised, as text."""
    return dict(connection.execute("SELECT name, value FROM settings"))


def _connect(path: Path, name: str, mode: str = "rw") -> sqlite3.Connection:
    # Not mode=rwc: a missing database is damage, not an empty collection.
    if not path.is_file():
        raise DataCorrupted(
            f"the database of collection '{name}' is missing; restore a backup", metadata={"collection": name}
        )
    uri = path.absolute().as_uri() + f"?mode={mode}"
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
    )


def _tune(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {2 * _WAL_PAGES * PAGE_BYTES}")
    connection.execute("PRAGMA cache_size = -65536")
    # Deleted rows need not be overwritten with zeros, which would dirty every page of a large deletion.
    connection.execute("PRAGMA secure_delete = OFF")
