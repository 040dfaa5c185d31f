"""How much of what an exact search finds the searches of callers find, and wider searches where that is too little.

The estimate is of recall@10 of the dense stage: of the ten documents whose vectors are nearest, the share that a search
finds. It is of the searches that callers send, with as many candidates as they ask for, where these go through a graph
and leave ``ef`` to the collection: a search that scores every vector has recall 1, and one that sets its
own ``ef`` has what it asked for. Searches without and with a filter are estimated apart, and each kind has its own
``ef``, because what one needs would only slow the other down.

Of such searches a few are kept, and now and then one of them is run twice, as it is and exactly. A window of the latest
checks with one ``ef`` makes the estimate. When that is below the collection's target, ``ef`` is doubled and the window
begins anew. The raised ``ef`` is kept by the store, beside the search defaults, so that a restart does not begin with
a window of bad answers. It is not lowered here: a search that is wider than it need be costs a fraction of a
millisecond, and two rules that pull in opposite directions would have it swing about the target.

A collection that is closed is not checked, and a check is no use of it: what nobody searches is closed all the same.

All state belongs to the event loop, and checks run in threads of low priority; ``of`` may be called from any thread.
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

import numpy as np

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
from shortlist_server.pipeline.run import SearchRun
from shortlist_server.storage.base import CollectionStore, Selection

logger = logging.getLogger(__name__)

T = TypeVar("T")

TOP = 10
"""Nearest documents that are to be found."""

SCORE_TOLERANCE = 1e-5
"""A found document counts when its cosine is at most so much below that of the last true one: a tie, or rounding."""

KEPT = 64
"""Searches of a kind that are kept to be checked."""

REMEMBERED = 10 * KEPT
"""About how many searches ago a kept one was made, where many come."""

MAX_FILTER_CHARACTERS = 10_000
"""A search with a longer filter, as text, is not kept: it could hold megabytes."""

WINDOW = 500
"""Latest checks that make the estimate."""

MIN_CHECKS = 30
"""Checks before ``ef`` is raised where the whole interval is below the target."""

LIKELY_CHECKS = 200
"""Checks before ``ef`` is raised where the estimate is below the target, though the interval is not."""

MAX_EF = 2048
"""Largest ``ef`` that is set here."""

MAX_SHARE = 0.05
"""Largest share of the time that checks may run; a scan of millions of vectors takes seconds."""

_Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A search to check. ``documents``: how many the dense index was asked for."""

    vector: Vector
    documents: int
    filter: Filter | None


class Searches:
    """A collection's searches of one kind, with a filter or without: those kept, and the checks so far."""

    def __init__(self, *, filtered: bool) -> None:
        self.filtered = filtered
        self.samples: list[Sample] = []
        self.checked_at = 0.0
        self.estimate = RecallEstimate(ef=0)
        self._seen = 0
        self._recalls: deque[float] = deque(maxlen=WINDOW)
        self._random = np.random.default_rng()

    def offer(self, run: SearchRun) -> None:
        """Keeps a search, perhaps.

        A reservoir in which old samples fade, because the count of what was seen is bounded: each new search comes in
        with the same chance, in the place of any (Aggarwal, "On biased reservoir sampling in the presence of stream
        evolution", VLDB 2006).
        """
        self._seen = min(self._seen + 1, REMEMBERED)
        full = len(self.samples) == KEPT
        if full and self._random.random() * self._seen >= KEPT:
            return
        filter = run.request.filter
        if filter is not None and len(repr(filter)) > MAX_FILTER_CHARACTERS:
            return
        assert run.vector is not None
        # A copy: the vector may be a row of a whole batch.
        sample = Sample(vector=run.vector.copy(), documents=run.plan.dense_candidates, filter=filter)
        if full:
            self.samples[self._random.integers(KEPT)] = sample
        else:
            self.samples.append(sample)

    def take(self) -> Sample:
        """One of the kept searches, which is kept no longer: a query that is twice in a window would count for two."""
        return self.samples.pop(self._random.integers(len(self.samples)))

    def add(self, recall: float, ef: int) -> None:
        """Puts a check into the estimate; one with another ``ef`` begins a new window."""
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


class RecallMonitor:
    """Estimates the recall of searches, and raises ``ef`` to meet the targets of collections."""

    def __init__(self, threads: Executor, *, interval_seconds: float, busy: Callable[[], bool]) -> None:
        """``threads`` are of low priority; while the server is ``busy`` nothing is checked."""
        self._threads = threads
        self._interval_seconds = interval_seconds
        self._busy = busy
        # Goes with the collection: one that is dropped and made again begins anew.
        self._watched: WeakKeyDictionary[CollectionStore, tuple[Searches, Searches]] = WeakKeyDictionary()

    def note(self, run: SearchRun, table: Candidates) -> None:
        """A search was made; it may be kept to be checked. Takes a few microseconds, and more under a long filter."""
        found = table.found
        if found is None or found.strategy is DenseStrategy.EXACT or run.request.settings.ef is not None:
            return
        kinds = self._watched.get(run.collection)
        if kinds is None:
            kinds = self._watched[run.collection] = (Searches(filtered=False), Searches(filtered=True))
        kinds[run.request.filter is not None].offer(run)

    def of(self, collection: CollectionStore) -> CollectionRecall:
        """What is known of a collection."""
        kinds = self._watched.get(collection)

        def now(*, filtered: bool) -> RecallEstimate:
            ef = collection.ef(filtered=filtered)
            known = RecallEstimate(ef=ef) if kinds is None else kinds[filtered].estimate
            return known if known.ef == ef else RecallEstimate(ef=ef, check_count=known.check_count)

        return CollectionRecall(
            collection=collection.name,
            target=_target(collection.config.search_defaults),
            unfiltered=now(filtered=False),
            filtered=now(filtered=True),
        )

    async def keep(self) -> None:
        """Checks for ever; cancel it to end it."""
        seconds = 0.0
        while True:
            await asyncio.sleep(max(self._interval_seconds, seconds / MAX_SHARE))
            begin = time.monotonic()
            try:
                await self.check()
            except Exception:
                # Whatever it was, other collections are still to be checked.
                logger.exception("a check of recall failed")
            seconds = time.monotonic() - begin

    async def check(self) -> None:
        """Checks one search, of the kind that has waited longest for it; none while the server is busy."""
        waiting = [
            (searches, collection)
            for collection, kinds in self._watched.items()
            for searches in kinds
            if searches.samples and collection.is_open
        ]
        if not waiting or self._busy():
            return
        searches, collection = min(waiting, key=lambda one: one[0].checked_at)
        searches.checked_at = time.monotonic()
        defaults = collection.config.search_defaults
        sample, ef = searches.take(), collection.ef(filtered=searches.filtered)
        try:
            recall = await self._in_thread(lambda: measure(collection, sample, ef))
            # A target or a preset that changed meanwhile begins anew.
            if recall is not None and ef == collection.ef(filtered=searches.filtered):
                searches.add(recall, ef)
                if falls_short(searches.estimate, _target(defaults)):
                    await self._widen(collection, searches, defaults)
        except ShortlistError as error:
            # Dropped meanwhile, or damaged; what is searched after this may be checked again.
            searches.samples.clear()
            logger.info("collection %s: its recall could not be checked: %s", collection.name, error.message)

    async def _widen(self, collection: CollectionStore, searches: Searches, defaults: SearchDefaults) -> None:
        was = searches.estimate
        ef = min(2 * was.ef, MAX_EF)
        if ef <= was.ef:
            return
        await self._in_thread(lambda: collection.raise_ef(ef, filtered=searches.filtered, under=defaults))
        if collection.ef(filtered=searches.filtered) != ef:
            return  # The preset or the target was changed meanwhile.
        logger.info(
            "collection %s: ef of searches with%s a filter was raised from %d to %d: their recall was %.3f (%.3f to"
            " %.3f), and is to be %g",
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


def measure(collection: CollectionStore, sample: Sample, ef: int) -> float | None:
    """Recall of one search, 0 to 1: at 10, or at as many as were asked for or are there. None where nothing is.

    The exact search goes first, and documents are compared by their cosine: what is added between the two can then hide
    nothing, and of several with the same cosine any will do.
    """
    selection = None if sample.filter is None else collection.select(sample.filter)
    true = _cosines(collection, sample.vector, min(TOP, sample.documents), selection, exact=True)
    if not true:
        return None
    found = _cosines(collection, sample.vector, sample.documents, selection, ef=ef)
    enough = true[-1] - SCORE_TOLERANCE
    return min(len(true), sum(cosine >= enough for cosine in found)) / len(true)


def _cosines(
    collection: CollectionStore, vector: Vector, documents: int, selection: Selection | None, **how: Any
) -> list[float]:
    found = collection.dense(vector, documents, selection, **how)
    cosines: list[float] = found.scores[first_of_each(found.keys)].tolist()
    return cosines


def interval(recalls: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the recalls of some queries, and its 95 % confidence interval.

    Wilson's interval for a share (Journal of the American Statistical Association 22, 1927), which keeps its coverage
    near 1 and stays within 0 to 1, with each query as one trial. A query's ten documents are no ten trials, because a
    graph misses whole neighbourhoods; and however they depend on each other, no recalls between 0 and 1 vary more than
    those of all or nothing (Bhatia and Davis, "A better bound on the variance", American Mathematical Monthly 107,
    2000), for which the interval is made. The variance that is seen gives a narrower one, which is wrong where few
    queries miss much; docs/adr/0004 has the figures.
    """
    n = len(recalls)
    mean = math.fsum(recalls) / n
    shrink = 1 + _Z**2 / n
    centre = (mean + _Z**2 / (2 * n)) / shrink
    half = _Z / shrink * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    # At 0 and 1 an end is the mean itself, but for rounding.
    return mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def falls_short(estimate: RecallEstimate, target: float) -> bool:
    """Whether ``ef`` is to be raised: soon where recall is surely below the target, later where it is likely to be."""
    if estimate.recall is None or estimate.query_count < MIN_CHECKS:
        return False
    return estimate.upper < target or (estimate.query_count >= LIKELY_CHECKS and estimate.recall < target)


def _target(defaults: SearchDefaults) -> float:
    return DEFAULT_RECALL_TARGET if defaults.recall_target is None else defaults.recall_target
