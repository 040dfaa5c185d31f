"""The round trip: a made query is kept if a search finds its document again, near enough to the top.

A query that says too little, or something else than its document, fails. Queries that were cut out of their document
nearly always pass; this filter is for what a language model writes, and for titles and headings that say little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shortlist_adapt.searching import Found


def passes(found: Sequence[Found], positives: Mapping[str, int], *, rank: int, margin: float) -> bool:
    """Whether a document that answers the query is found again.

    Args:
        found: the hits of the query, best first.
        positives: the documents that answer it.
        rank: the worst rank allowed, from 1.
        margin: how far below the best hit the document's fused score may be, 0 to 1.
    """
    return any(one.id in positives and found[0].score - one.score <= margin for one in found[:rank])
