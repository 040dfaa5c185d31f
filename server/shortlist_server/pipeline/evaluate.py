"""Measures how well a live collection ranks, by judged queries.

One search runs at a time, through a ``Searcher`` with threads of low priority; in a model's lane, a user's query waits
for at most one query of an evaluation. ``ir-measures`` computes the measures here and in the command line, so figures
from both can be compared. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from shortlist_server.domain import (
    NO_MODEL,
    CollectionConfig,
    Deadline,
    Include,
    ModelVersion,
    RetrievalMode,
    SearchDefaults,
    SearchReport,
    SearchRequest,
)
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.plan import merged
from shortlist_server.pipeline.search import Searcher
from shortlist_server.ranking.measures import MEASURES, judge_each
from shortlist_server.storage.base import Store

LIMIT = 100
"""Hits per search: the depth of recall@100."""

SEARCH_SECONDS = 60.0
"""Longest time of one search, within the caller's deadline."""

ALONE: Mapping[str, SearchDefaults] = {
    "dense": SearchDefaults(mode=RetrievalMode.DENSE, rerank=False),
    "lexical": SearchDefaults(mode=RetrievalMode.LEXICAL, rerank=False),
    "fused": SearchDefaults(rerank=False),
    "final": SearchDefaults(),
}
"""What each ranking sets on top of the measured settings."""

NEEDS_EMBEDDER = frozenset({"dense", "fused"})

Measures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuery:
    """A query and its qrels: the grade of each judged document by id; 0 is not relevant."""

    id: str
    text: str
    qrels: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of an evaluation, in searches."""

    done: int
    total: int


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """The measures of one of the settings.

    Attributes:
        setting: its place, from 0.
        queries: measures by ranking, then by query id.
        sequence: every search saw at least the changes up to this one.
        embedder: of the "final" searches; None where they used none.
        rerankers: of the "final" searches, in the order of the stages.
        degraded: "final" searches with less in the answer than they asked for.
    """

    setting: int
    queries: dict[str, Mapping[str, Measures]] = field(default_factory=dict)
    sequence: int
    embedder: ModelVersion | None = None
    rerankers: tuple[ModelVersion, ...] = ()
    degraded: int = 0

    def mean(self, ranking: str) -> Measures:
        """The mean of a ranking's measures over all queries."""
        return mean_of(self.queries[ranking].values())


class Evaluator:
    """Evaluates collections of a store. The caller lets one evaluation or comparison run at a time."""

    def __init__(self, store: Store, searcher: Searcher, threads: Executor) -> None:
        """``searcher`` and ``threads`` have low priority."""
        self._store = store
        self._searcher = searcher
        self._threads = threads

    async def evaluate(
        self, name: str, queries: Sequence[JudgedQuery], settings: Sequence[SearchDefaults], deadline: Deadline
    ) -> AsyncGenerator[Progress | Evaluation, None]:
        """Yields progress after each search, and an ``Evaluation`` after the last search of each of the settings.

        Raises:
            CollectionNotFound: no collection has that name.
            ShortlistError: whatever a search raises.
        """
        loop = asyncio.get_running_loop()
        async with leased(self._store, name, self._threads) as collection:
            rankings = rankings_of(collection.config)
            done, total = 0, len(settings) * len(rankings) * len(queries)
            # All searches read one generation, whatever is switched meanwhile.
            generation = collection.generation
            for place, setting in enumerate(settings):
                evaluation = Evaluation(setting=place, sequence=collection.sequence)
                for ranking in rankings:
                    found: dict[str, Sequence[str]] = {}
                    for query in queries:
                        request = SearchRequest(
                            collection=name,
                            text=query.text,
                            generation=generation,
                            limit=LIMIT,
                            settings=merged(ALONE[ranking], setting),
                            include=Include(text=False, metadata=False),
                        )
                        within = Deadline.after(min(SEARCH_SECONDS, deadline.left_seconds()))
                        result = await self._searcher.search(request, within)
                        found[query.id] = [hit.document.id for hit in result.hits]
                        if ranking == "final":
                            _note(evaluation, result.report)
                        done += 1
                        yield Progress(done=done, total=total)
                    qrels = {query.id: query.qrels for query in queries}
                    evaluation.queries[ranking] = await loop.run_in_executor(self._threads, judge_each, found, qrels)
                yield evaluation


def rankings_of(config: CollectionConfig) -> list[str]:
    """The rankings that a collection with these settings has."""
    return [ranking for ranking in ALONE if config.embedder != NO_MODEL or ranking not in NEEDS_EMBEDDER]


def mean_of(each: Collection[Measures]) -> Measures:
    """The mean of each measure."""
    return {name: sum(one[name] for one in each) / len(each) for name in MEASURES}


def _note(evaluation: Evaluation, report: SearchReport) -> None:
    evaluation.embedder = report.embedder or evaluation.embedder
    evaluation.rerankers = tuple(stage.model for stage in report.rerank_stages) or evaluation.rerankers
    evaluation.degraded += bool(report.degradations)
