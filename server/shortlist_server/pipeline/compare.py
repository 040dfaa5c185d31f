"""Compares two generations of a collection before one is switched to.

Both answer the same queries: judged ones, or recent ones of callers. Searches run one at a time with low priority and
in turns, so whatever else the machine does slows both alike. A search that is timed embeds its query anew: recent
queries may be in the cache of the serving model only. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from shortlist_server.domain import (
    Deadline,
    Filter,
    Generation,
    GenerationState,
    Include,
    SearchDefaults,
    SearchRequest,
    SearchResult,
)
from shortlist_server.errors import GenerationNotFound, GenerationNotReady, ShortlistError
from shortlist_server.pipeline.evaluate import (
    ALONE,
    LIMIT,
    SEARCH_SECONDS,
    Evaluator,
    Measures,
    Progress,
    mean_of,
    rankings_of,
)
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.search import Searcher
from shortlist_server.ranking.measures import judge_each
from shortlist_server.ranking.significance import difference
from shortlist_server.storage.base import Store

TOP = 10
"""Hits that are compared."""

EXAMPLES = 10
"""Queries that are shown."""

WARM_UP = 3
"""Queries that both generations answer once before, because the first searches read from the disk."""

ATTEMPTS, PAUSE_SECONDS = 5, 0.5
"""How often a search is tried while the server is busy, and the first pause between; each is twice the one before."""

WHOLE = "final"
"""The ranking of a whole search, which is timed and whose hits are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedQuery:
    """A query that both generations answer.

    Attributes:
        id: "" for a recent one.
        instruction: "" for the generation's.
        qrels: grades by document id; empty where the query is not judged.
    """

    text: str
    id: str = ""
    instruction: str = ""
    filter: Filter | None = None
    qrels: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Moves:
    """Where the hits of the serving generation are in the candidate's ranking."""

    same: int = 0
    higher: int = 0
    lower: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingDifference:
    """The mean measures of one ranking in both generations.

    Attributes:
        ndcg: mean difference of nDCG@10, candidate minus serving.
        p: two-sided p-value of a paired randomisation test of it.
    """

    ranking: str
    serving: Measures
    candidate: Measures
    ndcg: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedQuery:
    """A query whose first hits differ. ``overlap``: share of them that both generations have, 0 to 1."""

    query: ComparedQuery
    overlap: float
    serving_ids: Sequence[str]
    candidate_ids: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison found.

    Attributes:
        serving, candidate: numbers of the generations.
        mean_overlap: mean share of the first ten hits that both have, 0 to 1.
        serving_seconds, candidate_seconds: shape (queries,), the time of each whole search.
        rankings: empty without judged queries.
        examples: the queries that changed most, smallest overlap first.
        degraded: whole searches that were less than what was asked.
    """

    serving: int
    candidate: int
    queries: int
    mean_overlap: float
    changed_first_hits: int
    moves: Moves
    serving_seconds: Sequence[float]
    candidate_seconds: Sequence[float]
    rankings: Sequence[RankingDifference]
    examples: Sequence[ChangedQuery]
    degraded: int


def pair_of(generations: Sequence[Generation], number: int) -> tuple[int, int]:
    """The numbers of the serving generation and of the one to compare it with.

    Args:
        generations: all of the collection's.
        number: the generation to compare; 0: the one being built, else the former.

    Raises:
        GenerationNotFound: there is no such generation.
        GenerationNotReady: it serves, or there is only one.
    """
    of = {one.state: one.number for one in generations}
    serving = of[GenerationState.SERVING]
    if not number:
        found = of.get(GenerationState.BUILDING) or of.get(GenerationState.FORMER)
        if found is None:
            raise GenerationNotReady(
                "the collection has one generation and nothing to compare it with: start a reindex first",
                field="generation",
            )
        return serving, found
    if number == serving:
        raise GenerationNotReady(f"generation {number} serves: name another one to compare it with", field="generation")
    if not any(one.number == number and one.state is not GenerationState.DROPPING for one in generations):
        raise GenerationNotFound(f"there is no generation {number}", field="generation")
    return serving, number


class Comparer:
    """Compares generations of a store's collections."""

    def __init__(self, store: Store, evaluator: Evaluator, searcher: Searcher, threads: Executor) -> None:
        """``searcher`` and ``threads`` have low priority; the comparer takes turns with ``evaluator``."""
        self._store = store
        self._evaluator = evaluator
        self._searcher = searcher
        self._threads = threads

    async def compare(
        self,
        name: str,
        serving: int,
        candidate: int,
        queries: Sequence[ComparedQuery],
        tell: Callable[[Progress], None],
    ) -> Comparison:
        """Searches both generations, one query after the other, and reports what changes.

        Args:
            serving, candidate: numbers of the generations.
            queries: all judged, or none; at least one.
            tell: gets the progress after each search.

        Raises:
            CollectionNotFound, GenerationNotFound: the collection or a generation was dropped.
            ShortlistError: whatever a search raises.
        """
        numbers = (serving, candidate)
        judged = bool(queries[0].qrels)
        async with leased(self._store, name, self._threads) as collection, self._evaluator.turn:
            rankings = rankings_of(collection.config) if judged else [WHOLE]
            total = 2 * (len(queries) * len(rankings) + min(WARM_UP, len(queries)))
            done = 0
            found: dict[str, tuple[list[SearchResult], list[SearchResult]]] = {one: ([], []) for one in rankings}
            for place, query in enumerate([*queries[:WARM_UP], *queries]):
                warm_up = place < min(WARM_UP, len(queries))
                for ranking in [WHOLE] if warm_up else rankings:
                    # Each goes first every other time: the second one finds the rows of shared documents in memory.
                    for which in (0, 1) if place % 2 else (1, 0):
                        request = _request(name, numbers[which], query, ranking, limit=LIMIT if judged else TOP)
                        result = await self._search(request)
                        if not warm_up:
                            found[ranking][which].append(result)
                        done += 1
                        tell(Progress(done=done, total=total))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, _comparison, numbers, queries, found, judged)

    async def _search(self, request: SearchRequest) -> SearchResult:
        pause = PAUSE_SECONDS
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._searcher.search(request, Deadline.after(SEARCH_SECONDS))
            except ShortlistError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(pause)
            pause *= 2
        return await self._searcher.search(request, Deadline.after(SEARCH_SECONDS))


def _request(name: str, generation: int, query: ComparedQuery, ranking: str, *, limit: int) -> SearchRequest:
    return SearchRequest(
        collection=name,
        text=query.text,
        generation=generation,
        limit=limit,
        instruction=query.instruction,
        settings=ALONE.get(ranking, SearchDefaults()),
        filter=query.filter,
        include=Include(text=False, metadata=False),
        fresh_embedding=ranking == WHOLE,
    )


def _comparison(
    numbers: tuple[int, int],
    queries: Sequence[ComparedQuery],
    found: Mapping[str, tuple[Sequence[SearchResult], Sequence[SearchResult]]],
    judged: bool,
) -> Comparison:
    serving, candidate = found[WHOLE]
    moves, changed, overlaps, first_hits = Moves(), [], [], 0
    for query, before, after in zip(queries, map(_ids, serving), map(_ids, candidate), strict=True):
        shared = overlap(before[:TOP], after[:TOP])
        overlaps.append(shared)
        first_hits += before[:1] != after[:1]
        count_moves(moves, before[:TOP], after[:TOP])
        if before[:TOP] != after[:TOP]:
            changed.append(
                ChangedQuery(query=query, overlap=shared, serving_ids=before[:TOP], candidate_ids=after[:TOP])
            )
    return Comparison(
        serving=numbers[0],
        candidate=numbers[1],
        queries=len(queries),
        mean_overlap=float(np.mean(overlaps)),
        changed_first_hits=first_hits,
        moves=moves,
        serving_seconds=[one.report.total_seconds for one in serving],
        candidate_seconds=[one.report.total_seconds for one in candidate],
        rankings=[_ranking(ranking, queries, *pair) for ranking, pair in found.items()] if judged else (),
        examples=sorted(changed, key=lambda one: one.overlap)[:EXAMPLES],
        degraded=sum(bool(one.report.degradations) for one in (*serving, *candidate)),
    )


def _ranking(
    ranking: str, queries: Sequence[ComparedQuery], serving: Sequence[SearchResult], candidate: Sequence[SearchResult]
) -> RankingDifference:
    qrels = {query.id: query.qrels for query in queries}
    before, after = (
        judge_each({query.id: _ids(result) for query, result in zip(queries, results, strict=True)}, qrels)
        for results in (serving, candidate)
    )
    of = difference([before[id]["ndcg_at_10"] for id in qrels], [after[id]["ndcg_at_10"] for id in qrels])
    return RankingDifference(
        ranking=ranking, serving=mean_of(before.values()), candidate=mean_of(after.values()), ndcg=of.mean, p=of.p
    )


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of the hits that two rankings have in common, of the longer one; 1 where both are empty."""
    longer = max(len(first), len(second))
    return len(set(first) & set(second)) / longer if longer else 1.0


def count_moves(moves: Moves, before: Sequence[str], after: Sequence[str]) -> None:
    """Adds to ``moves`` where each hit of ``before`` is in ``after``."""
    places = {id: place for place, id in enumerate(after)}
    for place, id in enumerate(before):
        now = places.get(id)
        if now is None:
            moves.gone += 1
        elif now == place:
            moves.same += 1
        elif now < place:
            moves.higher += 1
        else:
            moves.lower += 1


def _ids(result: SearchResult) -> list[str]:
    return [hit.document.id for hit in result.hits]
