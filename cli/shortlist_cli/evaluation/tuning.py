"""Finds the settings that rank best, with one search for each query.

That search is deep, reranks every candidate in every stage, and returns the raw score of every stage. From these scores
the formulas of the server's fusion and blending stages, which the contract states (``Fusion``, ``Rerank``), give the
ranking under any weights, depths and number of candidates. Callers check the result with real searches, because
approximate retrieval can find slightly different candidates at another ``ef``.

Repeated cross-validation chooses the settings: the figures of a choice come from queries that had no part in it. Pure
functions except ``observe``; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shortlist import Candidates, Client, Fusion, Include, Rerank, SearchResult
from shortlist_cli.evaluation.choices import Choice, Grid
from shortlist_cli.evaluation.measuring import QUALITY_CONCURRENCY, Step, search_with_retries
from shortlist_server.ranking.fusion import blend, blended_order, min_max, weighted_sum
from shortlist_server.ranking.measures import MEASURES, Qrels, judge_each

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.int64]

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
class Observation:
    """The scores and ranks of a query's candidates in every stage.

    Attributes:
        ids: document ids, length n.
        cosine, lexical: raw scores, shape (n,), NaN where a stage has no score.
        reranks: raw scores of each rerank stage, shape (n,) each, NaN where it has no score.
        dense_rank, lexical_rank: ranks from 1, shape (n,), 0 where a stage did not find the document.
    """

    ids: Sequence[str]
    cosine: Floats
    lexical: Floats
    reranks: Sequence[Floats]
    dense_rank: Places
    lexical_rank: Places


def observe(
    client: Client, collection: str, queries: Mapping[str, str], grid: Grid, step: Step, *, generation: int = 0
) -> dict[str, Observation]:
    """Searches once for each query, deep enough for every choice of the grid; returns observations by query id.

    ``generation`` is the number of the generation to search; 0 for the one that serves.
    """
    limit = min(MAX_HITS, MARGIN * max(grid.candidates))
    rerank = _deep(grid)

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
            generation=generation,
            include=Include(text=False, metadata=False),
        )
        step()
        return observation(result, len(grid.stages))

    with ThreadPoolExecutor(QUALITY_CONCURRENCY) as threads:
        return dict(zip(queries, threads.map(search, queries.values()), strict=True))


def _deep(grid: Grid) -> Rerank:
    """Reranking of every document that a choice may rerank. With weight 0, each stage sees the fused ranking."""
    depths = [min(MAX_HITS, MARGIN * max(values.depths)) for values in grid.stages]
    if grid.is_plain:
        return Rerank(depth=depths[0], weight=0.0, deadline_share=1.0)
    return Rerank(
        enabled=True,
        stages=tuple(
            values.stage_at(depth=depth, weight=0.0) for values, depth in zip(grid.stages, depths, strict=True)
        ),
    )


def observation(result: SearchResult, stages: int = 1) -> Observation:
    """The answer of a search as arrays; ``stages`` is the number of its rerank stages."""
    import numpy as np

    def scores(stage: str) -> Floats:
        found = (getattr(hit, stage) for hit in result)
        return np.array([np.nan if at is None else at.score for at in found], dtype=np.float64)

    def ranks(stage: str) -> Places:
        found = (getattr(hit, stage) for hit in result)
        return np.array([0 if at is None else at.rank for at in found], dtype=np.int64)

    reranks = np.full((stages, len(result)), np.nan)
    for place, hit in enumerate(result):
        for at in hit.reranks:
            reranks[at.stage - 1, place] = at.score
    return Observation(
        ids=[hit.id for hit in result],
        cosine=scores("dense"),
        lexical=scores("lexical"),
        reranks=list(reranks),
        dense_rank=ranks("dense"),
        lexical_rank=ranks("lexical"),
    )


def rankings(at: Observation, choices: Sequence[Choice]) -> list[tuple[str, ...]]:
    """The first ``LIMIT`` documents under each choice, as the server would rank them."""
    import numpy as np

    result: list[tuple[str, ...]] = [()] * len(choices)
    # Choices that differ only in the weight of the last stage are blended together.
    groups: dict[tuple[int, float, Stages, int], list[int]] = {}
    for number, one in enumerate(choices):
        *before, last = one.stages
        key = (one.candidates, one.dense_weight, tuple((stage.depth, stage.weight) for stage in before), last.depth)
        groups.setdefault(key, []).append(number)
    ranked = _Ranked(at)
    for (candidates, dense_weight, stages, depth), numbers in groups.items():
        order, scores = ranked.after(candidates, dense_weight, stages)
        weights = np.array([choices[number].stages[-1].weight for number in numbers])
        tops = _orders(scores[:depth], at.reranks[-1][order[:depth]], weights)
        for number, top in zip(numbers, tops, strict=True):
            # Below the depth the order before the stage remains.
            chosen = [*order[:depth][top].tolist(), *order[depth : depth + LIMIT].tolist()]
            result[number] = tuple(at.ids[place] for place in chosen[:LIMIT])
    return result


Stages = tuple[tuple[int, float], ...]
"""Depth and weight of the first stages."""


class _Ranked:
    """The candidates of a query in the order after some stages, each worked out once."""

    def __init__(self, at: Observation) -> None:
        self._at = at
        self._candidates: dict[int, tuple[Places, Floats, Floats]] = {}
        self._after: dict[tuple[int, float, Stages], tuple[Places, Floats]] = {}

    def after(self, candidates: int, dense_weight: float, stages: Stages) -> tuple[Places, Floats]:
        """Positions of the candidates, best first, and their scores, after fusion and the first rerank stages."""
        key = (candidates, dense_weight, stages)
        if key not in self._after:
            self._after[key] = self._rerank(*key) if stages else self._fuse(candidates, dense_weight)
        return self._after[key]

    def _fuse(self, candidates: int, dense_weight: float) -> tuple[Places, Floats]:
        import numpy as np

        if candidates not in self._candidates:
            self._candidates[candidates] = _candidates(self._at, candidates)
        places, dense, lexical = self._candidates[candidates]
        fused = weighted_sum([dense, lexical], [dense_weight, 1 - dense_weight])
        order = np.argsort(-fused, kind="stable")
        return places[order], fused[order]

    def _rerank(self, candidates: int, dense_weight: float, stages: Stages) -> tuple[Places, Floats]:
        import numpy as np

        *before, (depth, weight) = stages
        order, scores = self.after(candidates, dense_weight, tuple(before))
        if not weight or not order.size:
            return order, scores
        final, normalized = blend(scores[:depth], self._at.reranks[len(before)][order[:depth]], weight)
        best = blended_order(final, normalized)
        return (
            np.concatenate([order[:depth][best], order[depth:]]),
            np.concatenate([final[best], scores[depth:]]),
        )


def _candidates(at: Observation, number: int) -> tuple[Places, Floats, Floats]:
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


def _orders(scores: Floats, reranked: Floats, weights: Floats) -> Places:
    """The order of a shortlist under each weight, shape (weights, shortlist); weight 0 means no reranking."""
    import numpy as np

    if not scores.size:
        return np.empty((weights.size, 0), dtype=np.int64)
    final, normalized = blend(scores, reranked, weights[:, None])
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
