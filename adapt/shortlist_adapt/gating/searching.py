"""Real searches of the gate: what they find, how it is judged, and how long they take.

Call from one thread; searches run in threads of their own, and progress is told from the caller's.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from shortlist import Client, Include
from shortlist_adapt.progress import Progress
from shortlist_cli.evaluation.measuring import QUALITY_CONCURRENCY, measure_latency, search_with_retries
from shortlist_server.ranking.measures import MEASURES, Qrels, judge_each

MEASURE, *_ = MEASURES
"""Final nDCG@10: the measure that decides."""

LIMIT = 10
"""Hits of a judged search: the depth of the measure, and the default limit of a search."""

TIMED_QUERIES = 100
"""Queries that are timed, one search at a time."""

SERIOUS = frozenset({"rerank_failed", "rerank_partial", "rerank_skipped", "embedder_missing", "generation_incomplete"})
"""Degradations that change what a user gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What the searches of one side found.

    Attributes:
        figures: final nDCG@10 of each query, 0 to 1, by query id.
        ids: the first ten documents, best first, by query id.
        degraded: number of searches that were less than what was asked, by kind.
    """

    figures: Mapping[str, float]
    ids: Mapping[str, tuple[str, ...]]
    degraded: Mapping[str, int]

    @property
    def mean(self) -> float:
        """Mean nDCG@10."""
        return statistics.fmean(self.figures.values())


def search_all(
    client: Client,
    collection: str,
    queries: Mapping[str, str],
    qrels: Qrels,
    arguments: Mapping[str, Any],
    progress: Progress,
) -> Searched:
    """Searches once for each query and judges what comes back; ``arguments`` are more arguments of ``Client.search``.

    Raises:
        ShortlistError: a search failed.
    """
    part = Include(text=False, metadata=False)
    ids: dict[str, tuple[str, ...]] = {}
    degraded: dict[str, int] = {}
    with ThreadPoolExecutor(QUALITY_CONCURRENCY) as threads:
        results = threads.map(
            lambda text: search_with_retries(client, collection, text, limit=LIMIT, include=part, **arguments),
            queries.values(),
        )
        for id, result in zip(queries, results, strict=True):
            ids[id] = tuple(hit.id for hit in result)
            for kind in {one.kind for one in result.report.degradations} & SERIOUS:
                degraded[kind] = degraded.get(kind, 0) + 1
            progress.advance()
    judged = judge_each(ids, qrels, [MEASURE])
    return Searched(
        figures={id: judged[id][MEASURE] for id in queries}, ids=ids, degraded=dict(sorted(degraded.items()))
    )


def median_ms(
    client: Client, collection: str, queries: Mapping[str, str], arguments: Mapping[str, Any], rotation: int
) -> float:
    """Median time of a search in milliseconds, one at a time; ``rotation`` as in ``measure_latency``."""
    texts = list(queries.values())[:TIMED_QUERIES]
    timed = measure_latency(client, collection, texts, arguments, concurrency=1, rotation=rotation, step=lambda: None)
    return timed.p50_ms
