"""The lexical stage: BM25 over whole documents, by FTS5, within a fixed budget of postings.

A query word is a run of word characters. Each is quoted, so no text can become FTS5 syntax; any of them may match. The
title counts twice. FTS5 scores every posting of every word, about a microsecond each, so a query of common words would
take seconds on a million documents. The budget goes to the rarest words, which carry most information; the others are
left out, and the answer says so. When even the rarest is too common, only the newest documents that have it are scored.
Document frequencies are counted when first needed, no further than the budget, and kept until the number of
documents has changed by about a fifth. Any thread may call.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shortlist_server.domain import LexicalCandidates
from shortlist_server.storage.disk.faults import lexical_index
from shortlist_server.storage.rows.reader import ReaderPool
from shortlist_server.storage.rows.schema import TITLE_WEIGHT
from shortlist_server.storage.vectors.selection import KeySelection

POSTING_BUDGET = 20_000
"""Postings a query may score; 22 ms at the 1.1 microseconds measured."""

_WORD = re.compile(r"\w+")
_MAX_WORDS = 256
_KEPT_FREQUENCIES = 100_000
_GROWTH = 1.2
_FEW_DOCUMENTS = 1000


def words(text: str) -> list[str]:
    """The distinct words of a query, in order, lower-case, at most 256."""
    return list(dict.fromkeys(_WORD.findall(text.lower())))[:_MAX_WORDS]


@dataclass(frozen=True, slots=True)
class _Frequency:
    """A count that stopped at ``limit``, made when the collection had ``documents`` documents."""

    frequency: int
    limit: int
    documents: int


class LexicalIndex:
    """The reading side of one collection's lexical index."""

    def __init__(self, pool: ReaderPool, documents: Callable[[], int], budget: int = POSTING_BUDGET) -> None:
        self._pool = pool
        self._documents = documents
        self._budget = budget
        self._lock = threading.Lock()
        self._frequencies: dict[str, _Frequency] = {}

    def search(self, text: str, documents: int, selection: KeySelection | None) -> LexicalCandidates:
        """The documents that share words with ``text``, best first, at most ``documents``."""
        terms = words(text)
        if not terms or documents <= 0 or (selection is not None and not selection.matches):
            return _candidates([], bounded=False)
        with self._pool.connection() as connection, lexical_index():
            terms, oldest, bounded = self._affordable(connection, terms)
            match = " OR ".join(f'"{term}"' for term in terms)
            if selection is None:
                rows = connection.execute(
                    "SELECT rowid, rank FROM lexical WHERE lexical MATCH ? AND rowid >= ? ORDER BY rank LIMIT ?",
                    (match, oldest, documents),
                )
            else:
                # The unary plus makes SQLite test the selection on each posting, before it computes a score.
                rows = connection.execute(
                    f"SELECT rowid, bm25(lexical, {TITLE_WEIGHT}, 1.0) AS score FROM lexical"  # noqa: S608
                    " WHERE lexical MATCH ? AND rowid >= ? AND +rowid IN (SELECT value FROM json_each(?))"
                    " ORDER BY score LIMIT ?",
                    (match, oldest, selection.as_json, documents),
                )
            return _candidates(rows.fetchall(), bounded=bounded)

    def _affordable(self, connection: sqlite3.Connection, terms: list[str]) -> tuple[list[str], int, bool]:
        """The words to search for, the oldest key to score, and whether anything was left out."""
        total, budget = self._documents(), self._budget
        terms = self._informative(connection, terms, total)
        if total * len(terms) <= budget:
            return terms, 0, False
        found = sorted((self._frequency(connection, term, total, budget + 1), term) for term in terms)
        if found[0][0] > budget:
            # No word fits the budget; only exact counts tell which is the rarest.
            found = sorted((self._frequency(connection, term, total, total), term) for term in terms)
        kept: list[str] = []
        spent = 0
        for frequency, term in found:
            spent += frequency
            if spent > budget and kept:
                break
            kept.append(term)
        oldest = 0
        if found[len(kept) - 1][0] > budget:
            # Only possible for the first word, which alone exceeds the budget.
            row = connection.execute(
                "SELECT rowid FROM lexical WHERE lexical MATCH ? ORDER BY rowid DESC LIMIT 1 OFFSET ?",
                (f'"{kept[0]}"', budget),
            ).fetchone()
            oldest = row[0] + 1 if row else 0
        return kept, oldest, len(kept) < len(terms) or oldest > 0

    def _informative(self, connection: sqlite3.Connection, terms: list[str], total: int) -> list[str]:
        """The words that are in at most half of the documents, or all words when there are none of these.

        A more common word has a negative inverse document frequency, which FTS5 replaces by a millionth: leaving the
        word out changes no order, but its postings are most of the work. In a large collection the budget leaves it
        out.
        """
        if not _FEW_DOCUMENTS <= total <= 2 * self._budget:
            return terms
        limit = total // 2 + 1
        frequencies = {term: self._frequency(connection, term, total, limit) for term in terms}
        return [term for term in terms if 0 < frequencies[term] < limit] or terms

    def _frequency(self, connection: sqlite3.Connection, term: str, total: int, limit: int) -> int:
        """Number of documents that have a word, or ``limit`` if more do."""
        known = self._frequencies.get(term)
        if (
            known is not None
            and known.documents / _GROWTH <= total <= known.documents * _GROWTH
            and (known.frequency < known.limit or known.limit >= limit)
        ):
            return min(known.frequency, limit)
        frequency: int = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM lexical WHERE lexical MATCH ? LIMIT ?)", (f'"{term}"', limit)
        ).fetchone()[0]
        with self._lock:
            if len(self._frequencies) >= _KEPT_FREQUENCIES:
                self._frequencies.clear()
            self._frequencies[term] = _Frequency(frequency, limit, total)
        return frequency


def _candidates(rows: list[tuple[int, float]], *, bounded: bool) -> LexicalCandidates:
    return LexicalCandidates(
        keys=np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows)),
        scores=np.fromiter((-row[1] for row in rows), dtype=np.float32, count=len(rows)),
        bounded=bounded,
    )
