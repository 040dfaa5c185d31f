"""Chooses the queries that decide, and checks that no step before has seen them. Reads the run folder alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.hiding import CUT_OUT, visible
from shortlist_adapt.records import CorpusDocument, Split, TrainingPair, TrainingQuery, read_lines

TIERS = (frozenset({"judged", "clicks"}), frozenset({"llm"}), CUT_OUT)
"""Sources of queries, the most trustworthy first. A query cut out of its document is found by its own words, so such
queries say less about those of users."""

MIN_DEVELOPMENT = 10
"""Fewest development queries of a tier that settings are tuned on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenQueries:
    """Queries of one split, as searches and judgements take them.

    Attributes:
        queries: texts by id, in the order of the ids.
        qrels: grades by query id and document id.
        sources: number of queries of each source.
        source_of: each query's source, by id.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    sources: Mapping[str, int]
    source_of: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.queries)


def read_queries(folder: RunFolder) -> list[TrainingQuery]:
    """The queries of a run. Raises ``InvalidInput``."""
    return list(read_lines(folder.queries, TrainingQuery))


def check_unseen(folder: RunFolder, queries: Iterable[TrainingQuery]) -> None:
    """Refuses a run in which a held-out query was also trained or tuned on.

    Raises:
        InvalidInput: a held-out query has a training pair, or its text is also in another split. Names the first one.
    """
    held_out = {query.id: query for query in queries if query.split is Split.HELD_OUT}
    texts = {normalised(query.text): query.id for query in held_out.values()}
    for query in queries:
        if query.split is not Split.HELD_OUT and normalised(query.text) in texts:
            raise InvalidInput(
                f"queries.jsonl: the held-out query {texts[normalised(query.text)]!r} is also in the split "
                f"{query.split}, as {query.id!r}"
            )
    if not folder.pairs.is_file():
        return
    for pair in read_lines(folder.pairs, TrainingPair):
        if pair.query_id in held_out or normalised(pair.query) in texts:
            raise InvalidInput(f"pairs.jsonl has a pair of the held-out query {pair.query_id!r}; run mine again")


def normalised(text: str) -> str:
    """The text in lower case with single blanks: two texts with the same form count as the same query."""
    return " ".join(text.casefold().split())


def choose(
    queries: Sequence[TrainingQuery], split: Split, settings: GateSettings, *, least: int, seed: int
) -> ChosenQueries:
    """The queries of a split that decide: those of ``settings.sources``, else of the first tier with enough of them.

    Where no tier has enough, all tiers together count. Of several queries that were cut out of one document, one
    counts: only its own words are hidden from the searches.

    Raises:
        InvalidInput: there are fewer than ``least``.
    """
    usable = _one_of_each_document(
        sorted(
            (query for query in queries if query.split is split and any(g > 0 for g in query.positives.values())),
            key=lambda query: _place(query.id, seed),
        )
    )
    if settings.sources:
        found = [query for query in usable if query.source in settings.sources]
    else:
        tiers = ([query for query in usable if query.source in tier] for tier in TIERS)
        found = next((tier for tier in tiers if len(tier) >= least), usable)
    if len(found) < least:
        raise InvalidInput(
            f"{len(found)} queries of the {split} split are too few, it needs {least}: add judged queries, or "
            "synthesise more"
        )
    found = sorted(found[: settings.max_queries], key=lambda query: query.id)
    return ChosenQueries(
        queries={query.id: query.text for query in found},
        qrels={query.id: _grades(query) for query in found},
        sources=dict(sorted(Counter(query.source for query in found).items())),
        source_of={query.id: query.source for query in found},
    )


def hidden_documents(documents: Iterable[CorpusDocument], queries: Iterable[TrainingQuery]) -> Iterator[CorpusDocument]:
    """The documents without the parts that became these queries."""
    cut = {next(iter(query.positives)): query for query in queries if query.source in CUT_OUT}
    for document in documents:
        if document.id in cut:
            title, text = visible(document, cut[document.id])
            yield CorpusDocument(id=document.id, title=title, text=text)
        else:
            yield document


def _one_of_each_document(queries: Iterable[TrainingQuery]) -> list[TrainingQuery]:
    kept, documents = [], set()
    for query in queries:
        if query.source in CUT_OUT:
            (document, *_) = query.positives
            if document in documents:
                continue
            documents.add(document)
        kept.append(query)
    return kept


def _grades(query: TrainingQuery) -> dict[str, int]:
    return {**dict.fromkeys(query.rejected, 0), **query.positives}


def _place(id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{id}".encode()).hexdigest()
