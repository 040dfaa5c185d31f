"""The settings of the gate."""

from __future__ import annotations

from dataclasses import dataclass

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What the candidate must show, and how it is tried; see each field's help.

    Without ``sources``, the most trustworthy sources that have ``min_queries`` decide: what people judged, then what a
    language model wrote, then what was cut out of documents.
    """

    margin: float = setting(
        0.0, "The final nDCG@10 must rise by more than this, and chance must not explain it.", least=0, most=0.5
    )
    guarded: tuple[str, ...] = setting(
        (),
        "Judged queries on which the candidate may not lose much: COLLECTION=DIR or COLLECTION=DIR:SPLIT, a served"
        " collection and a folder in BEIR's format, which needs no corpus.",
    )
    guarded_margin: float = setting(
        0.01, "Largest accepted fall of the mean final nDCG@10 of a guarded set.", least=0, most=1
    )
    sources: tuple[str, ...] = setting((), "Sources of the held-out queries that decide; empty: see the documentation.")
    min_queries: int = setting(30, "Fewer held-out queries decide nothing.", least=2, most=10_000)
    max_queries: int = setting(1000, "More held-out queries are sampled down to this.", least=2, most=10_000)
    tune: bool = setting(True, "Find the search settings of the candidate on the development split.")
    rerank_depths: tuple[int, ...] = setting((10, 20), "Depths that a new reranker may get.", least=1, most=1000)
    max_median_ms: float = setting(
        0.0, "Largest accepted median time of a search, in milliseconds. 0: no limit.", least=0
    )

    def __post_init__(self) -> None:
        if self.min_queries > self.max_queries:
            raise InvalidInput("min_queries is larger than max_queries")
        if not self.rerank_depths:
            raise InvalidInput("rerank_depths is empty")
