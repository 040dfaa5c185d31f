"""The table of generations, and the tables of each.

One row for each generation, with a checksum. The row of the serving generation holds no cursor and no counts: it lacks
no document, and the counters count its passages, so an ordinary commit changes no row here. The functions use a
connection that the caller owns, within its transaction.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shortlist_server.domain import Chunking, CollectionConfig, GenerationConfig, GenerationState
from shortlist_server.errors import DataCorrupted
from shortlist_server.storage.rows.tables import tables_of
from shortlist_server.storage.values import GenerationRow

_COLUMNS = (
    "number",
    "state",
    "config",
    "create_time",
    "serve_time",
    "cursor",
    "documents",
    "passages",
    "done_tokens",
    "failed",
    "paused",
    "paused_by_user",
    "problem",
)


def create_table(connection: sqlite3.Connection) -> None:
    """Adds the table to a database."""
    connection.execute(
        "CREATE TABLE generations (number INTEGER PRIMARY KEY, state TEXT NOT NULL, config TEXT NOT NULL,"
        " create_time REAL NOT NULL, serve_time REAL NOT NULL, cursor INTEGER NOT NULL, documents INTEGER NOT NULL,"
        " passages INTEGER NOT NULL, done_tokens INTEGER NOT NULL, failed INTEGER NOT NULL, paused TEXT NOT NULL,"
        " paused_by_user INTEGER NOT NULL, problem TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT"
    )


def first(config: CollectionConfig, create_time_seconds: float, number_format: str = "") -> GenerationRow:
    """The generation that a collection is made with."""
    return GenerationRow(
        number=1,
        state=GenerationState.SERVING,
        config=generation_config(config, number_format),
        create_time_seconds=create_time_seconds,
        serve_time_seconds=create_time_seconds,
    )


def generation_config(config: CollectionConfig, number_format: str = "") -> GenerationConfig:
    """What belongs to the generation in a collection's settings."""
    return GenerationConfig(
        embedder=config.embedder,
        embedder_revision=config.embedder_revision,
        dimension=config.dimension,
        chunking=config.chunking,
        query_instruction=config.query_instruction,
        number_format=number_format,
    )


def with_generation(config: CollectionConfig, generation: GenerationConfig) -> CollectionConfig:
    """A collection's settings, with what belongs to a generation."""
    return replace(
        config,
        embedder=generation.embedder,
        embedder_revision=generation.embedder_revision,
        dimension=generation.dimension,
        chunking=generation.chunking,
        query_instruction=generation.query_instruction,
    )


def read(connection: sqlite3.Connection) -> tuple[GenerationRow, ...]:
    """All generations, by number, as they are stored: without the serving one's cursor and counts.

    A damaged row of a generation that does not serve gives one with a problem, which nobody uses.

    Raises:
        DataCorrupted: no row says undamaged that its generation serves, or several do.
    """
    rows = connection.execute(f"SELECT {', '.join(_COLUMNS)}, checksum FROM generations ORDER BY number")  # noqa: S608
    found: list[GenerationRow] = []
    damaged: dict[int, DataCorrupted] = {}
    for row in rows:
        try:
            found.append(_checked(row))
        except DataCorrupted as error:
            damaged[row[0]] = error
    serving = [row for row in found if row.state is GenerationState.SERVING]
    if len(serving) != 1:
        raise next(iter(damaged.values()), _damaged("not exactly one generation serves"))
    for number, damage in damaged.items():
        unusable = replace(serving[0], number=number, state=GenerationState.FORMER, problem=damage.message)
        found.append(replace(unusable, cursor=0, documents=0, passages=0))
    return tuple(sorted(found, key=lambda row: row.number))


def save(connection: sqlite3.Connection, rows: Sequence[GenerationRow], before: Sequence[GenerationRow]) -> None:
    """Writes the rows that differ from what is stored, and removes those that are gone."""
    if rows is before:
        return
    stored = {row.number: _values(row) for row in before}
    wanted = {row.number: _values(row) for row in rows}
    for number in stored.keys() - wanted.keys():
        connection.execute("DELETE FROM generations WHERE number = ?", (number,))
    for number, values in wanted.items():
        if values != stored.get(number):
            connection.execute(
                f"INSERT OR REPLACE INTO generations ({', '.join(_COLUMNS)}, checksum)"  # noqa: S608
                f" VALUES ({', '.join('?' * (len(_COLUMNS) + 1))})",
                (*values, _checksum(values)),
            )


def create_tables(connection: sqlite3.Connection, number: int) -> None:
    """Makes the empty tables of a new generation; they have the columns of the first one's."""
    tables = tables_of(number)
    connection.execute(
        f"CREATE TABLE {tables.passages} (label INTEGER PRIMARY KEY, key INTEGER NOT NULL, ordinal INTEGER NOT NULL,"
        ' start INTEGER NOT NULL, "end" INTEGER NOT NULL, tokens INTEGER NOT NULL, row_checksum INTEGER NOT NULL)'
        " STRICT"
    )
    connection.execute(f"CREATE INDEX {tables.passages_by_key} ON {tables.passages} (key)")
    connection.execute(
        f"CREATE TABLE {tables.vectors} (label INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, vector BLOB NOT NULL)"
        " STRICT"
    )
    connection.execute(f"CREATE TABLE {tables.token_vectors} (label INTEGER PRIMARY KEY, vectors BLOB NOT NULL) STRICT")


def delete_some(connection: sqlite3.Connection, number: int, limit: int) -> bool:
    """Deletes up to ``limit`` passages of a generation with their vectors; returns whether rows are left.

    Goes through each table on its own, so rows without a counterpart go as well.
    """
    tables = tables_of(number)
    for table in (tables.token_vectors, tables.vectors, tables.passages):
        if not _exists(connection, table):
            continue
        last = connection.execute(
            f"SELECT max(label) FROM (SELECT label FROM {table} ORDER BY label LIMIT ?)",  # noqa: S608
            (limit,),
        ).fetchone()[0]
        if last is not None:
            connection.execute(f"DELETE FROM {table} WHERE label <= ?", (last,))  # noqa: S608
            return True
    return False


def drop_tables(connection: sqlite3.Connection, number: int) -> None:
    """Removes the tables of a generation, which are empty by then."""
    tables = tables_of(number)
    for table in (tables.token_vectors, tables.vectors, tables.passages):
        connection.execute(f"DROP TABLE IF EXISTS {table}")


def dump(config: GenerationConfig) -> str:
    """The JSON text of what makes a generation."""
    return json.dumps(dataclasses.asdict(config), ensure_ascii=False)


def load(text: str) -> GenerationConfig:
    """What ``dump`` wrote."""
    values: dict[str, Any] = json.loads(text)
    return GenerationConfig(**(values | {"chunking": Chunking(**values["chunking"])}))


def _exists(connection: sqlite3.Connection, table: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    return found is not None


def _values(row: GenerationRow) -> tuple[Any, ...]:
    serves = row.state is GenerationState.SERVING
    return (
        row.number,
        row.state.value,
        dump(row.config),
        float(row.create_time_seconds),
        float(row.serve_time_seconds),
        0 if serves else row.cursor,
        0 if serves else row.documents,
        0 if serves else row.passages,
        row.done_tokens,
        row.failed,
        row.paused,
        int(row.paused_by_user),
        row.problem,
    )


def _checksum(values: tuple[Any, ...]) -> int:
    return zlib.crc32(repr(values).encode())


def _checked(row: tuple[Any, ...]) -> GenerationRow:
    *values, checksum = row
    if _checksum(tuple(values)) != checksum:
        raise _damaged(f"the row of generation {values[0]} fails its checksum")
    try:
        found = dict(zip(_COLUMNS, values, strict=True))
        return GenerationRow(
            number=found["number"],
            state=GenerationState(found["state"]),
            config=load(found["config"]),
            create_time_seconds=found["create_time"],
            serve_time_seconds=found["serve_time"],
            cursor=found["cursor"],
            documents=found["documents"],
            passages=found["passages"],
            done_tokens=found["done_tokens"],
            failed=found["failed"],
            paused=found["paused"],
            paused_by_user=bool(found["paused_by_user"]),
            problem=found["problem"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(f"the row of generation {values[0]} cannot be read ({error})") from error


def _damaged(problem: str) -> DataCorrupted:
    return DataCorrupted(f"the list of generations is damaged: {problem}; restore a backup")
