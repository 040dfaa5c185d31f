"""The result of a comparison of two generations, and how it is counted. Pure functions and values; any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shortlist_server.domain import Filter, SearchResult
from shortlist_server.pipeline.evaluate import Measures, mean_of
from shortlist_server.ranking.measures import judge_each
from shortlist_server.ranking.significance import difference

TOP = 10
"""Hits that are compared."""

EXAMPLES = 10
"""Queries that are shown."""


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
    """Where the hits of the serving generation are in the candidate's ranking: a number of hits each."""

    same: int = 0
    higher: int = 0
    lower: int = 0
    gone: int = 0

    def count(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Adds the hits of a query, best first."""
        places = {id: place for place, id in enumerate(after)}
        for place, id in enumerate(before):
            now = places.get(id)
            if now is None:
                self.gone += 1
            elif now == place:
                self.same += 1
            elif now < place:
                self.higher += 1
            else:
                self.lower += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedQuery:
    """A query whose first hits differ. ``overlap``: share of them that both generations have, 0 to 1."""

    query: ComparedQuery
    overlap: float
    serving_ids: Sequence[str]
    candidate_ids: Sequence[str]


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


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What a comparison found, or has found so far.

    Attributes:
        serving, candidate: numbers of the generations.
        overlaps: shape (queries,): the share of the first ten hits that both have, 0 to 1.
        changed_first_hits: queries whose first hit differs.
        serving_seconds, candidate_seconds: shape (queries,): the time of each whole search.
        examples: the queries that changed most, smallest overlap first.
        rankings: empty without judged queries.
        degraded: whole searches that ran degraded.
    """

    serving: int
    candidate: int
    overlaps: list[float] = field(default_factory=list)
    changed_first_hits: int = 0
    moves: Moves = field(default_factory=Moves)
    serving_seconds: list[float] = field(default_factory=list)
    candidate_seconds: list[float] = field(default_factory=list)
    examples: list[ChangedQuery] = field(default_factory=list)
    rankings: list[RankingDifference] = field(default_factory=list)
    degraded: int = 0

    def count(self, query: ComparedQuery, serving: SearchResult, candidate: SearchResult) -> None:
        """Adds a query's whole searches of both generations."""
        before, after = ids_of(serving)[:TOP], ids_of(candidate)[:TOP]
        shared = overlap(before, after)
        self.overlaps.append(shared)
        self.changed_first_hits += before[:1] != after[:1]
        self.moves.count(before, after)
        self.serving_seconds.append(serving.report.total_seconds)
        self.candidate_seconds.append(candidate.report.total_seconds)
        self.degraded += bool(serving.report.degradations) + bool(candidate.report.degradations)
        if before != after:
            changed = ChangedQuery(query=query, overlap=shared, serving_ids=before, candidate_ids=after)
            self.examples = sorted([*self.examples, changed], key=lambda one: one.overlap)[:EXAMPLES]


class JudgedRanking:
    """One ranking of both generations, judged as its searches end: only the measures of queries stay in memory."""

    def __init__(self, ranking: str) -> None:
        self.ranking = ranking
        self._measures: tuple[list[Measures], list[Measures]] = ([], [])

    def judge(
        self, queries: Sequence[ComparedQuery], serving: Sequence[list[str]], candidate: Sequence[list[str]]
    ) -> None:
        """Adds queries with the ids of the documents that each generation found, best first."""
        qrels = {query.id: query.qrels for query in queries}
        for measures, found in zip(self._measures, (serving, candidate), strict=True):
            judged = judge_each({query.id: ids for query, ids in zip(queries, found, strict=True)}, qrels)
            measures += [judged[query.id] for query in queries]

    def difference(self) -> RankingDifference:
        """The means over all queries, and the test of their difference. Takes up to seconds."""
        serving, candidate = self._measures
        of = difference([one["ndcg_at_10"] for one in serving], [one["ndcg_at_10"] for one in candidate])
        return RankingDifference(
            ranking=self.ranking, serving=mean_of(serving), candidate=mean_of(candidate), ndcg=of.mean, p=of.p
        )


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of the hits that two rankings have in common, of the longer one; 1 where both are empty."""
    longer = max(len(first), len(second))
    return len(set(first) & set(second)) / longer if longer else 1.0


def ids_of(result: SearchResult) -> list[str]:
    """The ids of the documents found, best first."""
    return [hit.document.id for hit in result.hits]
