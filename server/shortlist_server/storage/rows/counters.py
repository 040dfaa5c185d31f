"""Reads and writes the counters of a collection, with its generations. The caller owns the connection."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from shortlist_server.storage.rows import generations, schema, settings
from shortlist_server.storage.rows.tables import Tables, tables_of
from shortlist_server.storage.values import Counters


def read_counters(connection: sqlite3.Connection) -> Counters:
    """The counters as they are stored.

    Raises:
        DataCorrupted: the list of generations is damaged.
    """
    sequence, next_key, next_passage_id, documents, passages, commits, ids_checksum, last_generation = (
        connection.execute(
            "SELECT sequence, next_key, next_label, documents, passages, commits, ids_checksum, last_generation"
            " FROM counters"
        ).fetchone()
    )
    counters = Counters(
        sequence=sequence,
        next_key=next_key,
        next_passage_id=next_passage_id,
        documents=documents,
        commits=commits,
        ids_checksum=ids_checksum,
        last_generation=last_generation,
        generations=generations.read(connection),
    )
    return counters.with_rows(replace(counters.serving, cursor=next_key - 1, documents=documents, passages=passages))


def read_dimensions(connection: sqlite3.Connection) -> dict[int, int]:
    """The size of the vectors of each generation, by number, from a database of any format."""
    (format,) = connection.execute("PRAGMA user_version").fetchone()
    if format >= schema.FIRST_FORMAT_WITH_GENERATIONS:
        return {row.number: row.config.dimension for row in generations.read(connection)}
    return {1: settings.load(schema.read_settings(connection)["config"]).dimension}


def serving_tables(connection: sqlite3.Connection) -> Tables:
    """The tables of the generation that serves, in a database of any format."""
    (format,) = connection.execute("PRAGMA user_version").fetchone()
    if format >= schema.FIRST_FORMAT_WITH_GENERATIONS:
        return tables_of(read_counters(connection).serving.number)
    return tables_of(1)


def write_counters(connection: sqlite3.Connection, now: Counters, before: Counters) -> None:
    """Writes the counters, and the rows of the generations that differ from ``before``, which is what is stored."""
    connection.execute(
        "UPDATE counters SET sequence = ?, next_key = ?, next_label = ?, documents = ?, passages = ?, commits = ?,"
        " ids_checksum = ?, last_generation = ? WHERE id = 1",
        (
            now.sequence,
            now.next_key,
            now.next_passage_id,
            now.documents,
            now.serving.passages,
            now.commits,
            now.ids_checksum,
            now.last_generation,
        ),
    )
    generations.save(connection, now.generations, before.generations)
