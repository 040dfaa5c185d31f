"""Estimates the recall of callers' searches against exact ones, and raises ``ef`` where recall is too low.

The estimate is recall@10 of the dense stage: the share of the ten documents with the nearest vectors that a search
finds. It covers callers' own searches, with as many candidates as they ask for, that go through a graph with the
collection's ``ef``. A search that scores every vector has recall 1, and one that sets its own ``ef`` gets what it asked
for. Searches without and with a filter have separate estimates and separate ``ef``, because the ``ef`` that one kind
needs would only slow the other down.

The monitor keeps a few of these searches, and now and then runs one of them twice, as it was and exactly. The latest
checks with one ``ef`` form a window, which makes the estimate. When the estimate is below the collection's target, the
monitor doubles ``ef`` and starts a new window. The store keeps the raised ``ef`` beside the search defaults; otherwise
every restart would begin with a window of bad answers. Nothing lowers ``ef`` again: a search that is wider than
necessary costs a fraction of a millisecond, and two opposing rules would make ``ef`` swing about the target.

The estimate is that of the serving generation, and starts over after a switch: other vectors make another graph.
Searches that name a generation other than the serving one are not checked.

Closed collections are not checked. A check does not count as use: a collection that nobody searches is closed anyway.

All state belongs to the event loop, and checks run in threads of low priority. Any thread may call ``of``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from shortlist_server.domain import (
    CollectionRecall,
    DenseStrategy,
    Filter,
    RecallEstimate,
    SearchDefaults,
    Vector,
)
from shortlist_server.errors import ShortlistError
from shortlist_server.pipeline.candidates import Candidates, first_of_each
from shortlist_server.pipeline.plan import DEFAULT_RECALL_TARGET
from shortlist_server.pipeline.reservoir import Reservoir
from shortlist_server.pipeline.run import SearchRun
from shortlist_server.storage.base import CollectionStore, GenerationReader, Selection

logger = logging.getLogger(__name__)

T = TypeVar("T")

TOP = 10
"""Nearest documents that a search should find."""

SCORE_TOLERANCE = 1e-5
"""A found document counts when its cosine is at most this far below the last true one's: a tie, or rounding."""

KEPT = 64
"""Searches of each kind to keep for checks."""

MAX_FILTER_CHARACTERS = 10_000
"""A search whose filter is longer than this, as text, is not kept: it could take megabytes."""

WINDOW = 500
"""Latest checks behind the estimate."""

MIN_CHECKS = 30
"""Checks before ``ef`` is raised when the whole interval is below the target."""

LIKELY_CHECKS = 200
"""Checks before ``ef`` is raised when the estimate is below the target, but the interval reaches it."""

MAX_EF = 2048
"""Largest ``ef`` that the monitor sets."""

MAX_SHARE = 0.05
"""Largest share of time to spend on checks; a scan of millions of vectors takes seconds."""

_Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A search to check. ``documents`` is how many it asked the dense index for."""

    vector: Vector
    documents: int
    filter: Filter | None


class Searches:
    """A collection's searches of one kind, with or without a filter: kept searches, and the checks so far."""

    def __init__(self, *, filtered: bool) -> None:
        self.filtered = filtered
        self.samples: Reservoir[Sample] = Reservoir(KEPT)
        self.checked_at = 0.0
        self.estimate = RecallEstimate(ef=0)
        self._recalls: deque[float] = deque(maxlen=WINDOW)

    def offer(self, run: SearchRun) -> None:
        """Keeps a search with some probability."""
        if not self.samples.wants():
            return
        filter = run.request.filter
        if filter is not None and len(repr(filter)) > MAX_FILTER_CHARACTERS:
            return
        assert run.vector is not None
        # A copy: the vector may be a row of a whole batch.
        self.samples.add(Sample(vector=run.vector.copy(), documents=run.plan.dense_candidates, filter=filter))

    def take(self) -> Sample:
        """Removes and returns a kept search: a query that is twice in a window would count twice."""
        return self.samples.take()

    def add(self, recall: float, ef: int) -> None:
        """Adds a check to the estimate; a check with another ``ef`` starts a new window."""
        if ef != self.estimate.ef:
            self._recalls.clear()
        self._recalls.append(recall)
        mean, lower, upper = interval(self._recalls)
        self.estimate = RecallEstimate(
            ef=ef,
            recall=mean,
            lower=lower,
            upper=upper,
            query_count=len(self._recalls),
            check_count=self.estimate.check_count + 1,
        )


class Watched:
    """What is known of a collection's searches while one of its generations serves."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.unfiltered = Searches(filtered=False)
        self.filtered = Searches(filtered=True)

    def of_kind(self, *, filtered: bool) -> Searches:
        """The searches without, or with, a filter."""
        return self.filtered if filtered else self.unfiltered


class RecallMonitor:
    """Estimates the recall of searches, and raises ``ef`` to meet the targets of collections."""

    def __init__(self, threads: Executor, *, interval_seconds: float, busy: Callable[[], bool]) -> None:
        """``threads`` have low priority. While the server is ``busy``, nothing is checked."""
        self._threads = threads
        self._interval_seconds = interval_seconds
        self._busy = busy
        # An entry goes with its collection: one that is dropped and created again starts afresh.
        self._watched: WeakKeyDictionary[CollectionStore, Watched] = WeakKeyDictionary()

    def note(self, run: SearchRun, table: Candidates) -> None:
        """Takes note of a search, and may keep it for a check. Costs a few microseconds, more with a long filter."""
        found = table.found
        if found is None or found.strategy is DenseStrategy.EXACT or run.request.settings.ef is not None:
            return
        number = run.generation.number
        if number != run.collection.generation:
            return
        watched = self._watched.get(run.collection)
        if watched is None or watched.generation != number:
            watched = self._watched[run.collection] = Watched(number)
        watched.of_kind(filtered=run.request.filter is not None).offer(run)

    def of(self, collection: CollectionStore) -> CollectionRecall:
        """The recall of a collection's searches, as far as known."""
        watched = self._watched.get(collection)
        if watched is not None and watched.generation != collection.generation:
            watched = None

        def now(*, filtered: bool) -> RecallEstimate:
            ef = collection.ef(filtered=filtered)
            known = RecallEstimate(ef=ef) if watched is None else watched.of_kind(filtered=filtered).estimate
            return known if known.ef == ef else RecallEstimate(ef=ef, check_count=known.check_count)

        return CollectionRecall(
            collection=collection.name,
            target=_target(collection.config.search_defaults),
            unfiltered=now(filtered=False),
            filtered=now(filtered=True),
        )

    async def keep(self) -> None:
        """Checks until it is cancelled."""
        seconds = 0.0
        while True:
            await asyncio.sleep(max(self._interval_seconds, seconds / MAX_SHARE))
            begin = time.monotonic()
            try:
                await self.check()
            except Exception:
                # Other collections still need checks, whatever failed here.
                logger.exception("a recall check failed")
            seconds = time.monotonic() - begin

    async def check(self) -> None:
        """Checks one search of the kind that has waited longest; none while the server is busy."""
        waiting = [
            (searches, collection, watched.generation)
            for collection, watched in self._watched.items()
            if collection.is_open and collection.generation == watched.generation
            for searches in (watched.unfiltered, watched.filtered)
            if searches.samples.items
        ]
        if not waiting or self._busy():
            return
        searches, collection, number = min(waiting, key=lambda one: one[0].checked_at)
        searches.checked_at = time.monotonic()
        defaults = collection.config.search_defaults
        sample, ef = searches.take(), collection.ef(filtered=searches.filtered)
        try:
            recall = await self._in_thread(lambda: measure(collection, number, sample, ef))
            # A generation, a target or a default that changed meanwhile makes this check void.
            still = (collection.generation, collection.ef(filtered=searches.filtered)) == (number, ef)
            if recall is not None and still:
                searches.add(recall, ef)
                if falls_short(searches.estimate, _target(defaults)):
                    await self._widen(collection, number, searches, defaults)
        except ShortlistError as error:
            # The collection or the generation was dropped meanwhile or is damaged. Later searches may be checked again.
            searches.samples.items.clear()
            logger.info("cannot check the recall of collection '%s': %s", collection.name, error.message)

    async def _widen(
        self, collection: CollectionStore, number: int, searches: Searches, defaults: SearchDefaults
    ) -> None:
        was = searches.estimate
        ef = min(2 * was.ef, MAX_EF)
        if ef <= was.ef:
            return
        await self._in_thread(
            lambda: collection.raise_ef(ef, filtered=searches.filtered, under=defaults, generation=number)
        )
        if (collection.generation, collection.ef(filtered=searches.filtered)) != (number, ef):
            return  # The generation, the default or the target changed meanwhile.
        logger.info(
            "collection '%s': raised ef of searches with%s a filter from %d to %d, because their recall was %.3f (%.3f"
            " to %.3f) with a target of %g",
            collection.name,
            "" if searches.filtered else "out",
            was.ef,
            ef,
            was.recall,
            was.lower,
            was.upper,
            _target(defaults),
        )

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def measure(collection: CollectionStore, number: int, sample: Sample, ef: int) -> float | None:
    """Recall of a search of a generation, 0 to 1: at 10, or at fewer where fewer were asked for or exist.

    None where the generation has none of the documents.

    The exact search goes first, and cosines decide which documents count. Documents added between the two searches then
    hide nothing, and any of several documents with the same cosine will do.
    """
    selection = None if sample.filter is None else collection.select(sample.filter)
    with collection.read_generation(number) as generation:
        true = _cosines(generation, sample.vector, min(TOP, sample.documents), selection, exact=True)
        if not true:
            return None
        found = _cosines(generation, sample.vector, sample.documents, selection, ef=ef)
    enough = true[-1] - SCORE_TOLERANCE
    return min(len(true), sum(cosine >= enough for cosine in found)) / len(true)


def _cosines(
    generation: GenerationReader, vector: Vector, documents: int, selection: Selection | None, **how: Any
) -> list[float]:
    found = generation.dense(vector, documents, selection, **how)
    cosines: list[float] = found.scores[first_of_each(found.keys)].tolist()
    return cosines


def interval(recalls: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the recalls of some queries, and its 95 % confidence interval.

    Wilson's interval for a proportion (Journal of the American Statistical Association 22, 1927), with each query as
    one trial; it stays within 0 to 1 and keeps its coverage near 1. A query's ten documents are not ten trials, because
    a graph misses whole neighbourhoods. However they depend on each other, recalls between 0 and 1 vary at most as much
    as recalls of all or nothing (Bhatia and Davis, "A better bound on the variance", American Mathematical Monthly 107,
    2000), which the interval assumes. An interval from the observed variance is narrower, but wrong where few queries
    miss much; docs/adr/0004 has the figures.
    """
    n = len(recalls)
    mean = math.fsum(recalls) / n
    shrink = 1 + _Z**2 / n
    centre = (mean + _Z**2 / (2 * n)) / shrink
    half = _Z / shrink * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    # At 0 and 1 an end equals the mean, except for rounding.
    return mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def falls_short(estimate: RecallEstimate, target: float) -> bool:
    """Whether to raise ``ef``: soon when recall is surely below the target, later when it is probably below."""
    if estimate.recall is None or estimate.query_count < MIN_CHECKS:
        return False
    return estimate.upper < target or (estimate.query_count >= LIKELY_CHECKS and estimate.recall < target)


def _target(defaults: SearchDefaults) -> float:
    return DEFAULT_RECALL_TARGET if defaults.recall_target is None else defaults.recall_target
