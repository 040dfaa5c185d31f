"""Drafts become queries: duplicates are merged, copies and boilerplate dropped, answers completed with their twins.

Pure functions over the drafts and the corpus.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

from shortlist_adapt.corpus import Corpus
from shortlist_adapt.hiding import TITLE, shown
from shortlist_adapt.records import Split
from shortlist_adapt.synthesis.judged import CLICKS, JUDGED
from shortlist_adapt.synthesis.source import Draft
from shortlist_adapt.texts import copied_share, normal

MAX_SHARED = 3
"""A title of more documents than this says too little to be a query."""

USERS = frozenset({JUDGED, CLICKS})
"""The sources whose queries come from people. They are never dropped for what they say."""


@dataclasses.dataclass(slots=True)
class Cleaned:
    """Drafts by normal form, and how many were dropped, by reason."""

    drafts: dict[str, Draft]
    dropped: Counter[str]


def clean(drafts: Iterable[Draft], corpus: Corpus, *, max_copied: float) -> Cleaned:
    """Keeps one draft for each normal form.

    - Documents that the corpus lacks are left out of the answers; a query without an answer is dropped.
    - Of queries that are equal, a person's goes before a made one, a held-out one before others. Judgements of equal
      queries are united.
    - A made query that several different documents gave is dropped, but for a title of a few.
    - A made query is dropped if its document, as training shows it, still has most of its runs of words.

    Args:
        drafts: in the order of the sources.
        corpus: the documents.
        max_copied: largest share of a made query's runs of words that the shown document may have.
    """
    cleaned = Cleaned(drafts={}, dropped=Counter())
    ambiguous: set[str] = set()
    for raw in drafts:
        key = normal(raw.text)
        positives = corpus.with_twins(raw.positives)
        if not key or not positives:
            cleaned.dropped["empty" if not key else "answer not in the collection"] += 1
            continue
        draft = dataclasses.replace(raw, positives=positives, rejected=corpus.known(raw.rejected))
        if draft.source not in USERS and _copies(draft, corpus, max_copied):
            cleaned.dropped["copy of the text"] += 1
            continue
        known = cleaned.drafts.get(key)
        if key in ambiguous:
            cleaned.dropped["stands in several documents"] += 1
        elif known is None:
            cleaned.drafts[key] = draft
        else:
            merged = _merged(known, draft)
            if merged is None:
                del cleaned.drafts[key]
                ambiguous.add(key)
                cleaned.dropped["stands in several documents"] += 2
            else:
                cleaned.drafts[key] = merged
                cleaned.dropped["duplicate"] += 1
    return cleaned


def _copies(draft: Draft, corpus: Corpus, max_copied: float) -> bool:
    for id in draft.positives:
        title, text = shown(corpus[id], draft.source, draft.excluded_text)
        if copied_share(draft.text, f"{title}\n{text}") > max_copied:
            return True
    return False


def _merged(first: Draft, second: Draft) -> Draft | None:
    """Both as one; None where they are made from different documents and mean neither of them."""
    people = (first.source in USERS, second.source in USERS)
    if people == (True, True):
        keep, other = (second, first) if second.split is Split.HELD_OUT is not first.split else (first, second)
        positives = _united(keep.positives, other.positives)
        rejected = tuple(id for id in dict.fromkeys((*keep.rejected, *other.rejected)) if id not in positives)
        return dataclasses.replace(keep, positives=positives, rejected=rejected)
    if any(people):
        return first if people[0] else second
    if first.positives.keys() == second.positives.keys():
        return first
    if first.source == second.source == TITLE and len(first.positives.keys() | second.positives.keys()) <= MAX_SHARED:
        return dataclasses.replace(first, positives=_united(first.positives, second.positives))
    return None


def _united(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {id: max(first.get(id, 0), second.get(id, 0)) for id in (*first, *second)}
