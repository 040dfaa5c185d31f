"""Measuring how well a live collection ranks, by judged queries.

One search runs at a time, through a ``Searcher`` that the composition root gives threads of low priority; a query of a
user waits for at most one query of an evaluation in a model's lane. Measures are ``ir-measures``', as in the command
line, so that the figures that decide on a server are those that were seen before. Coroutines on the server's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from shortlist_server.domain import (
    Deadline,
    ModelVersion,
    Parts,
    RetrievalMode,
    SearchDefaults,
    SearchReport,
    SearchRequest,
)
from shortlist_server.inference.base import NO_MODEL
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.plan import merged
from shortlist_server.pipeline.search import Searcher
from shortlist_server.ranking.measures import MEASURES, judge_each
from shortlist_server.storage.base import Store

LIMIT = 100
"""Hits of each search: the depth of recall@100."""

SEARCH_SECONDS = 60.0
"""Longest time of one search, in the caller's deadline."""

ALONE: Mapping[str, SearchDefaults] = {
    "dense": SearchDefaults(mode=RetrievalMode.DENSE, rerank=False),
    "lexical": SearchDefaults(mode=RetrievalMode.LEXICAL, rerank=False),
    "fused": SearchDefaults(rerank=False),
    "final": SearchDefaults(),
}
"""What each ranking sets on top of the settings that are measured."""

NEEDS_EMBEDDER = frozenset({"dense", "fused"})

Measures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuery:
    """A query and the grades of its judged documents by id; 0 is not relevant."""

    id: str
    text: str
    grades: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an evaluation is, in searches."""

    done: int
    total: int


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """What was measured with one of the settings.

    Attributes:
        setting: its place, from 0.
        queries: measures by ranking, then by query id.
        sequence: every search was at least as new.
        embedder, reranker: of the whole searches; None where they used none.
        degraded: whole searches that were less than what was asked.
    """

    setting: int
    queries: dict[str, Mapping[str, Measures]] = field(default_factory=dict)
    sequence: int
    embedder: ModelVersion | None = None
    reranker: ModelVersion | None = None
    degraded: int = 0

    def mean(self, ranking: str) -> Measures:
        """A ranking's measures, the mean over all queries."""
        each = self.queries[ranking].values()
        return {name: sum(one[name] for one in each) / len(each) for name in MEASURES}


class Evaluator:
    """Evaluates collections of a store, one evaluation at a time."""

    def __init__(self, store: Store, searcher: Searcher, threads: Executor) -> None:
        """``searcher`` and ``threads`` are of low priority."""
        self._store = store
        self._searcher = searcher
        self._threads = threads
        self._turn = asyncio.Lock()

    async def evaluate(
        self, name: str, queries: Sequence[JudgedQuery], settings: Sequence[SearchDefaults], deadline: Deadline
    ) -> AsyncGenerator[Progress | Evaluation, None]:
        """Yields progress after each search, and each of the settings' measures when they are complete.

        Raises:
            CollectionNotFound: there is none of that name.
            ShortlistError: whatever a search raises.
        """
        loop = asyncio.get_running_loop()
        async with leased(self._store, name, self._threads) as collection:
            embeds = collection.config.embedder != NO_MODEL
            rankings = [ranking for ranking in ALONE if embeds or ranking not in NEEDS_EMBEDDER]
            done, total = 0, len(settings) * len(rankings) * len(queries)
            async with self._turn:
                for place, setting in enumerate(settings):
                    evaluation = Evaluation(setting=place, sequence=collection.sequence)
                    for ranking in rankings:
                        found: dict[str, Sequence[str]] = {}
                        for query in queries:
                            request = SearchRequest(
                                collection=name,
                                text=query.text,
                                limit=LIMIT,
                                settings=merged(ALONE[ranking], setting),
                                parts=Parts(text=False, metadata=False),
                            )
                            within = Deadline.after(min(SEARCH_SECONDS, deadline.left_seconds()))
                            result = await self._searcher.search(request, within)
                            found[query.id] = [hit.document.id for hit in result.hits]
                            if ranking == "final":
                                _note(evaluation, result.report)
                            done += 1
                            yield Progress(done=done, total=total)
                        grades = {query.id: query.grades for query in queries}
                        evaluation.queries[ranking] = await loop.run_in_executor(
                            self._threads, judge_each, found, grades
                        )
                    yield evaluation


def _note(evaluation: Evaluation, report: SearchReport) -> None:
    evaluation.embedder = report.embedder or evaluation.embedder
    evaluation.reranker = report.reranker or evaluation.reranker
    evaluation.degraded += bool(report.degradations)
