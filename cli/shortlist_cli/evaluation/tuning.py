"""Finds the settings that rank best, with one search for each query.

That search is deep, reranks every candidate, and returns the raw score of every stage. From these scores the formulas
of the server's fusion and blending stages, which the contract states (``Fusion``, ``Rerank``), give the ranking under
any weight, depth and number of candidates. Callers check the result with real searches, because approximate retrieval
can find slightly different candidates at another ``ef``.

Repeated cross-validation chooses the settings: the figures of a choice come from queries that had no part in it. Pure
functions except ``observe``; any thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shortlist import Candidates, Client, Fusion, Include, Rerank, SearchDefaults, SearchResult
from shortlist_cli.evaluation.measuring import QUALITY_CONCURRENCY, Step, search_with_retries
from shortlist_server.ranking.fusion import blend, blended_order, min_max, weighted_sum
from shortlist_server.ranking.measures import MEASURES, Qrels, judge_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MEASURE = next(iter(MEASURES))
LIMIT = 10
"""Hits of a judged ranking: the depth of the measure and the default limit of a search."""

FOLDS, REPEATS = 5, 5
TOLERANCE = 0.001
"""Settings this close to the best count as equal; the present ones win among equals, then the cheapest."""

MARGIN = 3
"""``observe`` looks this many times deeper than the largest setting, so no candidate of either index is cut off."""

MAX_HITS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A combination of settings. With ``rerank_weight`` 0 there is no second stage."""

    dense_weight: float
    rerank_weight: float
    depth: int
    candidates: int

    def over(self, present: SearchDefaults) -> SearchDefaults:
        """The presets of a collection with these settings in them; all others stay.

        The mode becomes "hybrid", because the weights apply to the candidates of both indexes.
        """
        rerank = (
            replace(present.rerank, weight=self.rerank_weight, depth=self.depth)
            if self.rerank_weight > 0
            else replace(present.rerank, enabled=False)
        )
        return replace(
            present,
            mode="hybrid",
            candidates=replace(present.candidates, dense=self.candidates, lexical=self.candidates),
            fusion=replace(present.fusion, method="weighted_sum", dense_weight=self.dense_weight),
            rerank=rerank,
        )

    def search(self) -> dict[str, Any]:
        """Arguments of ``Client.search`` that ask for these settings."""
        defaults = self.over(SearchDefaults())
        return {
            "mode": defaults.mode,
            "candidates": defaults.candidates,
            "fusion": defaults.fusion,
            "rerank": defaults.rerank,
        }

    @property
    def cost(self) -> tuple[float, float]:
        """Sort key: the cost of a search with these settings, lowest first."""
        return (self.depth if self.rerank_weight > 0 else 0, self.candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The values to choose from."""

    dense_weights: Sequence[float] = tuple(number / 10 for number in range(11))
    rerank_weights: Sequence[float] = tuple(number / 10 for number in range(11))
    depths: Sequence[int] = (20, 50, 100)
    candidates: Sequence[int] = (50, 100, 200)

    def choices(self) -> list[Choice]:
        """Every combination once; those without a second stage share one depth."""
        found: dict[Choice, None] = {}
        for candidates, dense, depth, weight in itertools.product(
            self.candidates, self.dense_weights, self.depths, self.rerank_weights
        ):
            reranked = depth if weight > 0 else min(self.depths)
            found[Choice(dense_weight=dense, rerank_weight=weight, depth=reranked, candidates=candidates)] = None
        return list(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The scores and ranks of a query's candidates in every stage.

    Attributes:
        ids: document ids, length n.
        cosine, lexical, rerank: raw scores, shape (n,), NaN where a stage has no score.
        dense_rank, lexical_rank: ranks from 1, shape (n,), 0 where a stage did not find the document.
    """

    ids: Sequence[str]
    cosine: Floats
    lexical: Floats
    rerank: Floats
    dense_rank: NDArray[np.int64]
    lexical_rank: NDArray[np.int64]


def observe(
    client: Client, collection: str, queries: Mapping[str, str], grid: Grid, step: Step
) -> dict[str, Observation]:
    """Searches once for each query, deep enough for every choice of the grid; returns observations by query id."""
    limit = min(MAX_HITS, MARGIN * max(grid.candidates))
    rerank = Rerank(depth=min(MAX_HITS, MARGIN * max(grid.depths)), weight=0.0, deadline_share=1.0)

    def search(text: str) -> Observation:
        result = search_with_retries(
            client,
            collection,
            text,
            limit=limit,
            mode="hybrid",
            # Reciprocal ranks, so that the best candidates of each index are returned whatever their scores.
            fusion=Fusion(method="rrf"),
            candidates=Candidates(dense=limit, lexical=limit),
            rerank=rerank,
            include=Include(text=False, metadata=False),
        )
        step()
        return observation(result)

    with ThreadPoolExecutor(QUALITY_CONCURRENCY) as threads:
        return dict(zip(queries, threads.map(search, queries.values()), strict=True))


def observation(result: SearchResult) -> Observation:
    """The answer of a search as arrays."""
    import numpy as np

    def scores(stage: str) -> Floats:
        found = (getattr(hit, stage) for hit in result)
        return np.array([np.nan if at is None else at.score for at in found], dtype=np.float64)

    def ranks(stage: str) -> NDArray[np.int64]:
        found = (getattr(hit, stage) for hit in result)
        return np.array([0 if at is None else at.rank for at in found], dtype=np.int64)

    return Observation(
        ids=[hit.id for hit in result],
        cosine=scores("dense"),
        lexical=scores("lexical"),
        rerank=scores("rerank"),
        dense_rank=ranks("dense"),
        lexical_rank=ranks("lexical"),
    )


def rankings(at: Observation, choices: Sequence[Choice]) -> list[tuple[str, ...]]:
    """The first ``LIMIT`` documents under each choice, as the server would rank them."""
    import numpy as np

    result: list[tuple[str, ...]] = [()] * len(choices)
    groups: dict[tuple[int, float, int], list[int]] = {}
    for number, one in enumerate(choices):
        groups.setdefault((one.candidates, one.dense_weight, one.depth), []).append(number)
    stages: dict[int, tuple[NDArray[np.int64], Floats, Floats]] = {}
    for (candidates, dense_weight, depth), numbers in groups.items():
        if candidates not in stages:
            stages[candidates] = _candidates(at, candidates)
        places, dense, lexical = stages[candidates]
        fused = weighted_sum([dense, lexical], [dense_weight, 1 - dense_weight])
        order = np.argsort(-fused, kind="stable")
        shortlist, scores = places[order], fused[order]
        weights = np.array([choices[number].rerank_weight for number in numbers])
        tops = _orders(scores[:depth], at.rerank[shortlist[:depth]], weights)
        for number, top in zip(numbers, tops, strict=True):
            # Below the depth the fused order remains.
            chosen = [*shortlist[:depth][top].tolist(), *shortlist[depth : depth + LIMIT].tolist()]
            result[number] = tuple(at.ids[place] for place in chosen[:LIMIT])
    return result


def _candidates(at: Observation, number: int) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Positions of the candidates when each index returns ``number``, and their normalised dense and lexical scores."""
    import numpy as np

    dense_rank = np.where((at.dense_rank > 0) & (at.dense_rank <= number), at.dense_rank, 0)
    lexical_rank = np.where((at.lexical_rank > 0) & (at.lexical_rank <= number), at.lexical_rank, 0)
    places = np.flatnonzero((dense_rank > 0) | (lexical_rank > 0))
    last = len(at.ids) + 1
    keys = (
        np.where(lexical_rank[places] > 0, lexical_rank[places], last),
        np.where(dense_rank[places] > 0, dense_rank[places], last),
    )
    places = places[np.lexsort(keys)]
    dense = min_max(at.cosine[places])
    lexical = min_max(np.where(lexical_rank[places] > 0, at.lexical[places], np.nan))
    return places, dense, lexical


def _orders(fused: Floats, reranked: Floats, weights: Floats) -> NDArray[np.int64]:
    """The order of a shortlist under each weight, shape (weights, shortlist); weight 0 means no reranking."""
    import numpy as np

    if not fused.size:
        return np.empty((weights.size, 0), dtype=np.int64)
    final, normalized = blend(fused, reranked, weights[:, None])
    return blended_order(final, np.where(weights[:, None] > 0, normalized, np.nan))


def score(observations: Mapping[str, Observation], qrels: Qrels, choices: Sequence[Choice], step: Step) -> Floats:
    """nDCG@10 of every query under every choice, shape (queries, choices)."""
    import numpy as np

    scores = np.zeros((len(observations), len(choices)))
    for row, (query, at) in enumerate(observations.items()):
        found = rankings(at, choices)
        # Most choices rank the same first ten: each distinct ranking is judged once.
        distinct = {ranking: str(number) for number, ranking in enumerate(dict.fromkeys(found))}
        runs = {name: ranking for ranking, name in distinct.items()}
        judged = judge_each(runs, dict.fromkeys(runs, qrels[query]), [MEASURE])
        scores[row] = [judged[distinct[ranking]][MEASURE] for ranking in found]
        step()
    return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The result of cross-validation.

    Attributes:
        choice: the best settings over all queries; None when the present ones are as good.
        held_out: each query's figure under the settings chosen without that query, mean over the repeats.
        fitted: each query's figure under ``choice``.
        agreement: share of the folds that chose the same settings, 0 to 1.
    """

    choice: Choice | None
    held_out: Floats
    fitted: Floats
    agreement: float


def tune(present: Floats, scores: Floats, choices: Sequence[Choice]) -> Tuned:
    """Chooses by repeated cross-validation.

    Args:
        present: each query's figure under the present settings, shape (queries,).
        scores: each query's figure under each choice, shape (queries, choices).
        choices: the settings to choose from.
    """
    import numpy as np

    table = np.column_stack([present, scores])
    best = _best(table, choices)
    held_out, chosen = np.zeros(len(table)), []
    for fold in _folds(len(table)):
        others = np.setdiff1d(np.arange(len(table)), fold)
        column = _best(table[others], choices)
        chosen.append(column)
        held_out[fold] += table[fold, column] / REPEATS
    return Tuned(
        choice=choices[best - 1] if best else None,
        held_out=held_out,
        fitted=table[:, best],
        agreement=chosen.count(best) / len(chosen),
    )


def _folds(queries: int) -> Iterator[NDArray[np.int64]]:
    import numpy as np

    numbers = np.random.default_rng(7)
    for _ in range(REPEATS):
        yield from np.array_split(numbers.permutation(queries), min(FOLDS, queries))


def _best(table: Floats, choices: Sequence[Choice]) -> int:
    """The best column: 0 for the present settings, else the number of the choice, from 1."""
    means = table.mean(axis=0)
    if means[0] >= means.max() - TOLERANCE:
        return 0
    near = [column for column in range(1, len(means)) if means[column] >= means.max() - TOLERANCE]
    return min(near, key=lambda column: (choices[column - 1].cost, -means[column]))
