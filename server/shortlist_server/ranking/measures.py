"""Judges rankings with ``ir-measures``, whose definitions are those of trec_eval.

Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Rankings = Mapping[str, Sequence[str]]
"""Ids of the documents found, best first, by query id."""

Qrels = Mapping[str, Mapping[str, int]]
"""Grades by query id and document id; 0 means not relevant."""

MEASURES = {"ndcg_at_10": "nDCG@10", "recall_at_100": "recall@100", "mrr_at_10": "MRR@10"}
"""Names of the measures in JSON, with their names for people. The first measure decides."""

_DEFINITIONS = {"ndcg_at_10": "nDCG@10", "recall_at_100": "R@100", "mrr_at_10": "RR@10"}


def judge_each(
    rankings: Rankings, qrels: Qrels, measures: Sequence[str] = tuple(MEASURES)
) -> dict[str, dict[str, float]]:
    """Every measure of every judged query, 0 to 1, by query id. A query without hits has 0 throughout.

    Args:
        rankings: the documents found.
        qrels: the grades they are judged by.
        measures: names out of ``MEASURES``.
    """
    import ir_measures

    names = {ir_measures.parse_measure(_DEFINITIONS[name]): name for name in measures}
    # trec_eval orders by score and breaks ties by id. Negated ranks as scores keep the given order.
    run = {
        query: {document: -float(rank) for rank, document in enumerate(ranking)} for query, ranking in rankings.items()
    }
    grades = {query: dict(documents) for query, documents in qrels.items()}
    judged = {query: dict.fromkeys(measures, 0.0) for query in qrels}
    for metric in ir_measures.iter_calc(list(names), grades, run):
        judged[metric.query_id][names[metric.measure]] = float(metric.value)
    return judged


def judge(rankings: Rankings, qrels: Qrels) -> dict[str, float]:
    """The mean of every measure over all judged queries."""
    judged = judge_each(rankings, qrels).values()
    return {name: sum(values[name] for values in judged) / len(judged) for name in MEASURES}
