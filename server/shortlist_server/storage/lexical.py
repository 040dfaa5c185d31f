"""The lexical stage: BM25 over whole documents, by FTS5.

Query words are taken as runs of word characters, each quoted, so no text can be FTS5 syntax; any of them may match. The
title counts twice. Any thread may call.
"""

from __future__ import annotations

import re

import numpy as np

from shortlist_server.domain import LexicalCandidates
from shortlist_server.storage.reader import ReaderPool
from shortlist_server.storage.schema import TITLE_WEIGHT
from shortlist_server.storage.selection import KeySelection

_WORD = re.compile(r"\w+")
_MAX_WORDS = 256


def words(text: str) -> list[str]:
    """The distinct words of a query, in order, lower-case, at most 256."""
    return list(dict.fromkeys(_WORD.findall(text.lower())))[:_MAX_WORDS]


class Lexicon:
    """The lexical index of one collection, from the side that reads."""

    def __init__(self, pool: ReaderPool) -> None:
        self._pool = pool

    def search(self, text: str, documents: int, selection: KeySelection | None) -> LexicalCandidates:
        """The documents that share words with ``text``, best first, at most ``documents``."""
        terms = words(text)
        if not terms or documents <= 0 or (selection is not None and not selection.matches):
            return _candidates([])
        match = " OR ".join(f'"{term}"' for term in terms)
        with self._pool.connection() as connection:
            if selection is None:
                rows = connection.execute(
                    "SELECT rowid, rank FROM lexical WHERE lexical MATCH ? ORDER BY rank LIMIT ?", (match, documents)
                )
            else:
                # The unary plus makes the selection a test of each posting, before its score is computed.
                rows = connection.execute(
                    f"SELECT rowid, bm25(lexical, {TITLE_WEIGHT}, 1.0) AS score FROM lexical"  # noqa: S608
                    " WHERE lexical MATCH ? AND +rowid IN (SELECT value FROM json_each(?)) ORDER BY score LIMIT ?",
                    (match, selection.as_json, documents),
                )
            return _candidates(rows.fetchall())


def _candidates(rows: list[tuple[int, float]]) -> LexicalCandidates:
    return LexicalCandidates(
        keys=np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows)),
        scores=np.fromiter((-row[1] for row in rows), dtype=np.float32, count=len(rows)),
    )
