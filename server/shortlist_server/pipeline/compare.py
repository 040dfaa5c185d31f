"""Compares two generations of a collection before a switch.

Both answer the same queries: judged ones, or recent ones of callers. Searches run one at a time with low priority,
and the generations take turns, so other work of the machine slows both alike. A timed search embeds its query anew,
because recent queries may be in the cache of the serving model only. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from shortlist_server.domain import Deadline, Generation, GenerationState, Include, SearchRequest, SearchResult
from shortlist_server.errors import GenerationNotFound, GenerationNotReady, ShortlistError
from shortlist_server.pipeline.comparison import TOP, ComparedQuery, Comparison, JudgedRanking, ids_of
from shortlist_server.pipeline.evaluate import ALONE, LIMIT, SEARCH_SECONDS, Progress, rankings_of
from shortlist_server.pipeline.leases import leased
from shortlist_server.pipeline.search import Searcher
from shortlist_server.storage.base import Store

WARM_UP = 3
"""Queries that both generations answer once before the comparison, because the first searches read from the disk."""

JUDGED_AT_ONCE = 200
"""Queries whose found documents are kept until they are judged."""

ATTEMPTS, PAUSE_SECONDS = 5, 0.5
"""How often a search is tried while the server is busy, and the first pause between; each is twice the one before."""

WHOLE = "final"
"""The ranking of a whole search, which is timed and whose hits are compared."""


def pair_of(generations: Sequence[Generation], number: int) -> tuple[int, int]:
    """The numbers of the serving generation and of the one to compare it with.

    Args:
        generations: all of the collection's.
        number: the generation to compare; 0: the one being built, else the former.

    Raises:
        GenerationNotFound: there is no such generation.
        GenerationNotReady: it serves.
    """
    of = {one.state: one.number for one in generations}
    serving = of[GenerationState.SERVING]
    if not number:
        found = of.get(GenerationState.BUILDING) or of.get(GenerationState.FORMER)
        if found is None:
            raise GenerationNotFound(
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

    def __init__(self, store: Store, searcher: Searcher, threads: Executor) -> None:
        """``searcher`` and ``threads`` have low priority."""
        self._store = store
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
            queries: at least one; all judged, or none.
            tell: gets the progress after each search.

        Raises:
            CollectionNotFound, GenerationNotFound: the collection or a generation was dropped.
            ShortlistError: whatever a search raises.
        """
        loop = asyncio.get_running_loop()
        comparison = Comparison(serving=serving, candidate=candidate)
        async with leased(self._store, name, self._threads) as collection:
            judged = bool(queries[0].qrels)
            rankings = rankings_of(collection.config) if judged else [WHOLE]
            warm_up = queries[:WARM_UP]
            running = _Running(
                self._searcher, name, (serving, candidate), 2 * (len(warm_up) + len(rankings) * len(queries)), tell
            )
            for query in warm_up:
                await running.pair(query, WHOLE, TOP)
            # The whole searches come first: they are timed, and do not fill the query cache.
            for ranking in sorted(rankings, key=lambda one: one != WHOLE):
                judging = JudgedRanking(ranking)
                for start in range(0, len(queries), JUDGED_AT_ONCE):
                    some = queries[start : start + JUDGED_AT_ONCE]
                    pairs = [await running.pair(query, ranking, LIMIT if judged else TOP) for query in some]
                    if ranking == WHOLE:
                        for query, pair in zip(some, pairs, strict=True):
                            comparison.count(query, *pair)
                    if judged:
                        before, after = ([ids_of(pair[which]) for pair in pairs] for which in (0, 1))
                        await loop.run_in_executor(self._threads, judging.judge, some, before, after)
                if judged:
                    comparison.rankings.append(await loop.run_in_executor(self._threads, judging.difference))
        comparison.rankings.sort(key=lambda one: rankings.index(one.ranking))
        return comparison


class _Running:
    """The searches of one comparison."""

    def __init__(
        self,
        searcher: Searcher,
        collection: str,
        generations: tuple[int, int],
        total: int,
        tell: Callable[[Progress], None],
    ) -> None:
        self._searcher = searcher
        self._collection = collection
        self._generations = generations
        self._total = total
        self._tell = tell
        self._done = 0

    async def pair(self, query: ComparedQuery, ranking: str, limit: int) -> tuple[SearchResult, SearchResult]:
        """The answers of the two generations.

        They take turns to go first, because the second one finds in memory what both read.
        """
        backwards = bool(self._done % 4)
        results = [
            await self._search(query, number, ranking, limit)
            for number in (reversed(self._generations) if backwards else self._generations)
        ]
        first, second = reversed(results) if backwards else results
        return first, second

    async def _search(self, query: ComparedQuery, generation: int, ranking: str, limit: int) -> SearchResult:
        request = SearchRequest(
            collection=self._collection,
            text=query.text,
            generation=generation,
            limit=limit,
            instruction=query.instruction,
            settings=ALONE[ranking],
            filter=query.filter,
            include=Include(text=False, metadata=False),
            fresh_embedding=ranking == WHOLE,
        )
        pause = PAUSE_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                result = await self._searcher.search(request, Deadline.after(SEARCH_SECONDS))
                break
            except ShortlistError as error:
                if not error.retryable or attempt == ATTEMPTS:
                    raise
            await asyncio.sleep(pause)
            pause *= 2
        self._done += 1
        self._tell(Progress(done=self._done, total=self._total))
        return result
