"""Makes, builds, switches and drops the generations of a collection, within a write transaction.

Each function changes the rows and the counters of the ``WriteTransaction`` that it gets, which belongs to the writer
thread. The states and their order are in docs/adr/0010-generations.md.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace

from shortlist_server.domain import BuiltDocument, DeadLetter, GenerationConfig, GenerationState
from shortlist_server.errors import GenerationNotFound, GenerationNotReady
from shortlist_server.storage.rows import dead_letters, generations
from shortlist_server.storage.rows.passages import NewRows, with_passages
from shortlist_server.storage.rows.settings import NOT_RAISED
from shortlist_server.storage.rows.tables import tables_of
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.values import Effect, GenerationRow

_KEYS_LOOKED_AT = 1000
"""Documents above the cursor that a build looks at in its transaction, to see whether it is done."""


def find(transaction: WriteTransaction, number: int) -> GenerationRow:
    """The generation of that number.

    Raises:
        GenerationNotFound: there is none, or it is being dropped.
    """
    row = transaction.counters.find(number)
    if row is None or row.state is GenerationState.DROPPING:
        raise GenerationNotFound(
            f"there is no generation {number}: it was never made, or is being dropped",
            metadata={"generation": str(number)},
        )
    return row


def create(transaction: WriteTransaction, config: GenerationConfig) -> GenerationRow:
    """Makes an empty generation to build.

    Raises:
        GenerationNotReady: another generation is being built.
    """
    counters = transaction.counters
    for row in counters.generations:
        if row.state is GenerationState.BUILDING:
            raise GenerationNotReady(
                f"generation {row.number} is being built: switch to it or drop it first",
                metadata={"generation": str(row.number)},
            )
    made = GenerationRow(
        number=counters.last_generation + 1,
        state=GenerationState.BUILDING,
        config=config,
        create_time_seconds=time.time(),
    )
    generations.create_tables(transaction.connection, made.number)
    transaction.counters = replace(counters, last_generation=made.number).with_rows(made)
    return made


def build(
    transaction: WriteTransaction,
    number: int,
    built: Sequence[BuiltDocument],
    cursor: int,
    *,
    tokens: int,
    failures: Sequence[DeadLetter],
) -> Effect:
    """Adds the passages of stored documents to a generation, and moves its cursor; see ``CollectionStore.build``.

    Raises:
        GenerationNotFound: there is no such generation, or it is being dropped.
        GenerationNotReady: it cannot be used, or a portion before this one was not built.
        InvalidVector: a vector has the wrong size or is not finite; nothing is changed.
    """
    row = find(transaction, number)
    if row.problem:
        raise GenerationNotReady(f"generation {number} cannot be used: {row.problem}")
    effect = Effect(counters=transaction.counters)
    if row.state is GenerationState.SERVING:
        # It was complete when it began to serve, and every commit since has brought its passages.
        return effect
    connection, tables = transaction.connection, tables_of(number)
    keys = [document.key for document in built]
    live = {
        found[0]
        for found in connection.execute(
            "SELECT key FROM identities WHERE key IN (SELECT value FROM json_each(?))", (json.dumps(keys),)
        )
    }
    missing = live - with_passages(connection, tables, keys)
    first, _ = _look(connection, row)
    if first is not None and first <= cursor and first not in missing:
        raise GenerationNotReady(
            f"generation {number} still lacks a document before this portion: read on from its cursor",
            metadata={"generation": str(number)},
        )
    rows = NewRows(tables, row.config.dimension)
    passage_id = transaction.counters.next_passage_id
    added = [document for document in built if document.key in missing and row.cursor < document.key <= cursor]
    for document in added:
        passage_id = rows.add(document.key, document.passages, passage_id)
    rows.insert(connection, rows.packed())
    if failures:
        dead_letters.add(connection, failures)
    effect.passages[number] = rows.change
    changed = replace(
        row,
        cursor=max(row.cursor, min(cursor, transaction.counters.next_key - 1)),
        documents=row.documents + len(added),
        passages=row.passages + len(rows.change.passage_ids),
        done_tokens=row.done_tokens + tokens,
        failed=row.failed + len(failures),
    )
    transaction.counters = replace(transaction.counters, next_passage_id=passage_id).with_rows(changed)
    _advance(transaction, changed)
    effect.counters = transaction.counters
    return effect


def _advance(transaction: WriteTransaction, row: GenerationRow) -> None:
    """Moves the cursor past documents above it that have their passages already.

    Commits bring passages while the build runs. Without this step, a build might never catch up with them.
    """
    lacking, end = _look(transaction.connection, row)
    last = transaction.counters.next_key - 1 if end is None else end
    cursor = last if lacking is None else lacking - 1
    transaction.counters = transaction.counters.with_rows(replace(row, cursor=cursor))


def _look(connection: sqlite3.Connection, row: GenerationRow) -> tuple[int | None, int | None]:
    """Looks at the next documents above the cursor.

    Returns:
        ``(first, last)``: the first key that lacks passages, or None; the last key looked at, or None if there are no
        more documents after it.
    """
    found = connection.execute(
        f"SELECT key, EXISTS (SELECT 1 FROM {tables_of(row.number).passages} p WHERE p.key = i.key)"  # noqa: S608
        " FROM identities i WHERE key > ? ORDER BY key LIMIT ?",
        (row.cursor, _KEYS_LOOKED_AT),
    ).fetchall()
    lacking = next((key for key, has in found if not has), None)
    return lacking, found[-1][0] if len(found) == _KEYS_LOOKED_AT else None


def pause(transaction: WriteTransaction, number: int, reason: str, *, by_user: bool) -> GenerationRow:
    """Records why a build is paused; an empty reason lets it go on. Only a caller ends or replaces a caller's pause.

    Raises:
        GenerationNotFound: there is no such generation, or it is being dropped.
        GenerationNotReady: it serves, so nothing builds it.
    """
    before = find(transaction, number)
    if reason and before.state is GenerationState.SERVING:
        raise GenerationNotReady(
            f"generation {number} serves: there is no build to pause", metadata={"generation": str(number)}
        )
    if before.paused_by_user and not by_user:
        return before
    row = replace(before, paused=reason, paused_by_user=bool(reason) and by_user)
    transaction.counters = transaction.counters.with_rows(row)
    return row


def switch(transaction: WriteTransaction, number: int) -> GenerationRow:
    """Lets a generation serve, and drops the former one, unless it is the same; changes nothing if it serves already.

    Raises:
        GenerationNotFound: there is no such generation, or it is being dropped.
        GenerationNotReady: it lacks documents, or cannot be used.
    """
    row, counters = find(transaction, number), transaction.counters
    if row.problem:
        raise GenerationNotReady(f"generation {number} cannot be used: {row.problem}")
    if not counters.is_complete(row):
        raise GenerationNotReady(
            f"generation {number} has {row.documents} of {counters.documents} documents: wait for its build",
            metadata={"generation": str(number)},
        )
    serving = counters.serving
    if row.number == serving.number:
        return row
    for other in counters.generations:
        if other.state is GenerationState.FORMER and other.number != number:
            drop(transaction, other.number)
    now = replace(row, state=GenerationState.SERVING, serve_time_seconds=time.time(), paused="", paused_by_user=False)
    former = replace(serving, state=GenerationState.FORMER)
    transaction.counters = transaction.counters.with_rows(now, former)
    transaction.save_config(generations.with_generation(transaction.config(), row.config))
    # How far a graph must be searched depends on its vectors.
    transaction.save_raised_ef(NOT_RAISED)
    return now


def drop(transaction: WriteTransaction, number: int) -> None:
    """Marks a generation as dropped and removes its segments from the manifest; its rows go later.

    Raises:
        GenerationNotFound: there is no such generation, or it is being dropped.
        GenerationNotReady: it serves.
    """
    row = find(transaction, number)
    if row.state is GenerationState.SERVING:
        raise GenerationNotReady(
            f"generation {number} serves: switch to another one first", metadata={"generation": str(number)}
        )
    transaction.connection.execute("DELETE FROM segments WHERE generation = ?", (number,))
    transaction.counters = transaction.counters.with_rows(
        replace(row, state=GenerationState.DROPPING, documents=0, passages=0, paused="", paused_by_user=False)
    )


def forget(transaction: WriteTransaction, number: int) -> None:
    """Removes the empty tables of a dropped generation, and its row."""
    generations.drop_tables(transaction.connection, number)
    transaction.counters = transaction.counters.without(number)
