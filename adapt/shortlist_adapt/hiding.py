"""What training may show of a document for a query that was cut out of it.

A model that sees the query inside the text learns to find copies, which it can already. So the part that became the
query is hidden: the title of a query that is the title, a range of the text for the others. Pure functions; any thread.
"""

from __future__ import annotations

from shortlist_adapt.records import CorpusDocument, TrainingQuery

TITLE = "title"
"""The source of the queries that are titles."""

CUT_OUT = frozenset({TITLE, "heading", "first-sentence", "cloze", "docstring"})
"""The sources whose queries stand in their documents, where any search by words finds them."""


def visible(document: CorpusDocument, query: TrainingQuery) -> tuple[str, str]:
    """The title and the text of a document as training may show them for a query.

    Of a query with ``excluded_text`` the document must be the one that the query was cut from: the only positive.
    """
    return shown(document, query.source, query.excluded_text)


def shown(document: CorpusDocument, source: str, excluded_text: tuple[int, int] | None) -> tuple[str, str]:
    """As ``visible``, for a query of this source that was cut from this range of the text."""
    title = "" if source == TITLE else document.title
    if excluded_text is None:
        return title, document.text
    return title, without(document.text, excluded_text)


def without(text: str, excluded: tuple[int, int]) -> str:
    """The text without a range, with one blank, or the line break that was there, where the range was."""
    start, end = excluded
    before, after = text[:start].rstrip(), text[end:].lstrip()
    gap = text[len(before) : start] + text[end : len(text) - len(after)]
    joint = "\n\n" if gap.count("\n") > 1 else "\n" if "\n" in gap else " "
    return f"{before}{joint}{after}" if before and after else before or after
