"""Which part of a document training reads: the passage that the search matched, without what became the query.

Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping

from shortlist_adapt.hiding import TITLE, without
from shortlist_adapt.records import CorpusDocument, TrainingQuery
from shortlist_adapt.searching import Found
from shortlist_adapt.texts import words_of
from shortlist_server.inference.passages import passage_content

MIN_WORDS = 8
"""A passage that keeps fewer words is too little to learn from; the next one is taken instead."""


def positive_content(document: CorpusDocument, query: TrainingQuery, found: Found | None) -> str:
    """What training reads of an answer.

    It is the best passage that the search matched, or the one that the query was cut from. Without such a passage it
    is the whole text, which training then cuts as the server does.
    """
    title = _title(document, query)
    for start, end in found.passages if found else ():
        if query.excluded_text is not None and not start <= query.excluded_text[0] < end:
            continue
        part = _shown(document, query.excluded_text, start, end)
        if len(words_of(part)) >= MIN_WORDS:
            return passage_content(title, part)
    return passage_content(title, _shown(document, query.excluded_text, 0, len(document.text)))


def negative_content(document: CorpusDocument, query: TrainingQuery, found: Found) -> str:
    """What training reads of another document: the best passage that the search matched.

    It has no title where the answer has none, so that a model cannot tell answers by that.
    """
    start, end = found.passages[0] if found.passages else (0, len(document.text))
    part = document.text[start:end]
    title = _title(document, query)
    return passage_content(title, part) if title or part.strip() else passage_content(document.title, part)


def shortlisted_content(
    document: CorpusDocument, query: TrainingQuery, found: Found, positives: Mapping[str, int]
) -> str:
    """What a reranker reads of a hit."""
    is_answer = document.id in positives
    return positive_content(document, query, found) if is_answer else negative_content(document, query, found)


def _title(document: CorpusDocument, query: TrainingQuery) -> str:
    return "" if query.source == TITLE else document.title


def _shown(document: CorpusDocument, excluded: tuple[int, int] | None, start: int, end: int) -> str:
    """The text from ``start`` to ``end``, without what lies in the excluded range."""
    part = document.text[start:end]
    if excluded is None:
        return part
    first, last = max(excluded[0], start) - start, min(excluded[1], end) - start
    return without(part, (first, last)) if first < last else part
