"""The figure of a reranker: nDCG@10 of the final ranking on the shortlists of the development queries.

The final ranking is that of a search with one rerank stage, at the best of a few weights. Without shortlists the
positives and hard negatives of the development pairs take their place, and the reranker alone orders them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from shortlist_adapt.development.engines import open_reranker
from shortlist_adapt.development.figures import Figure, kept, mean
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import Shortlist, Split, TrainingPair, read_lines
from shortlist_server.inference.base import RerankCandidate, Reranker, RerankQuery
from shortlist_server.ranking.fusion import blend, blended_order
from shortlist_server.ranking.measures import judge_each

WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Weights of the reranker that are tried; all checkpoints get the same choice."""

DEPTH = 20
"""How many documents are reranked."""

_MEASURE = "ndcg_at_10"


def read_shortlists(folder: RunFolder) -> list[Shortlist]:
    """The shortlists of the development queries; made of pairs if ``mine`` wrote none; empty without both."""
    if folder.shortlists.is_file():
        found = [one for one in read_lines(folder.shortlists, Shortlist) if one.split is Split.DEVELOPMENT]
        if found:
            return found
    pairs = (pair for pair in read_lines(folder.pairs, TrainingPair) if pair.split is Split.DEVELOPMENT)
    return from_pairs(pairs)


def from_pairs(pairs: Iterable[TrainingPair]) -> list[Shortlist]:
    """A shortlist for each query: its hard negatives, then its positives, all with the same fused score."""
    by_query: dict[str, list[TrainingPair]] = {}
    for pair in pairs:
        by_query.setdefault(pair.query_id, []).append(pair)
    made = []
    for query_id, group in by_query.items():
        texts: dict[str, str] = {}
        for pair in group:
            texts |= dict(zip(pair.negative_ids, pair.negatives, strict=True))
        positives = {pair.positive_id: pair.grade for pair in group}
        # Positives come last, since equal scores keep the order.
        texts = {one: text for one, text in texts.items() if one not in positives}
        texts |= {pair.positive_id: pair.positive for pair in group}
        made.append(
            Shortlist(
                query_id=query_id,
                query=group[0].query,
                split=group[0].split,
                positives=positives,
                document_ids=tuple(texts),
                passages=tuple(texts.values()),
                fused=(0.0,) * len(texts),
            )
        )
    return made


def final_figure(
    folder: RunFolder,
    model: Path,
    shortlists: Sequence[Shortlist],
    progress: Progress,
    *,
    instruction: str = "",
    device: str = "auto",
    threads: int = 0,
) -> Figure:
    """The figure of the reranker in the folder ``model``, from the run's cache or measured.

    Raises:
        InvalidInput: the server would refuse the model.
    """
    values = {"lists": [asdict(one) for one in shortlists], "instruction": instruction}
    task = fingerprint({**values, "weights": WEIGHTS, "depth": DEPTH})

    def measure() -> Figure:
        reranker = open_reranker(model, device=device, threads=threads)
        return measure_final(reranker, shortlists, progress, instruction)

    return kept(folder, model, task, measure)


def measure_final(
    reranker: Reranker, shortlists: Sequence[Shortlist], progress: Progress, instruction: str = ""
) -> Figure:
    """The figure of a reranker at the best weight; of equal ones the smallest."""
    progress.begin("measuring the reranker", len(shortlists), "queries")
    rankings: list[dict[str, list[str]]] = [{} for _ in WEIGHTS]
    for one in shortlists:
        for ranking, order in zip(rankings, _orders(reranker, one, instruction), strict=True):
            ranking[one.query_id] = order
        progress.advance()
    grades = {one.query_id: dict(one.positives) for one in shortlists}
    judged = [judge_each(ranking, grades, [_MEASURE]) for ranking in rankings]
    figures = [
        mean({query: values[_MEASURE] for query, values in one.items()}, f"weight {weight:g}")
        for weight, one in zip(WEIGHTS, judged, strict=True)
    ]
    return max(figures, key=lambda figure: figure.value)


def _orders(reranker: Reranker, one: Shortlist, instruction: str) -> list[list[str]]:
    """The final ranking of a shortlist, as document ids, at each weight."""
    if not one.document_ids:
        return [[] for _ in WEIGHTS]
    candidates = [RerankCandidate(text=text) for text in one.passages[:DEPTH]]
    scored = reranker.score(RerankQuery(text=one.query, instruction=instruction), candidates, lambda _: True)
    fused = np.array(one.fused[: len(candidates)])
    rest = list(one.document_ids[len(candidates) :])
    orders = []
    for weight in WEIGHTS:
        final, normalized = blend(fused, np.asarray(scored.scores, dtype=np.float64), weight)
        orders.append([one.document_ids[row] for row in blended_order(final, normalized)] + rest)
    return orders
