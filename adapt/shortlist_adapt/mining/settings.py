"""Settings of ``mine``."""

from __future__ import annotations

from dataclasses import dataclass

from shortlist_adapt.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningSettings:
    """How many negatives a query gets, from which rankings, and how near to the answer they may be."""

    negatives: int = setting(8, "Hard negatives of a query.", least=1, most=100)
    depth: int = setting(100, "Hits of the search that negatives are chosen from.", least=10, most=1000)
    lexical_share: float = setting(0.25, "Share of the negatives from the ranking by words alone.", least=0, most=1)
    dense_share: float = setting(
        0.25, "Share from the ranking by vectors alone; the rest comes from the fused one.", least=0, most=1
    )
    max_similarity: float = setting(
        0.95,
        "Largest cosine of a negative, as a share of the answer's own: what is nearer is likely to be an answer too.",
        least=0,
        most=10,
    )
    skipped: int = setting(
        5, "Best hits that are left out where the search does not find the answer: one of them may be it.", least=0
    )
    positives: int = setting(3, "Most answers of a query that are trained on, the best grades first.", least=1)
    shortlist: int = setting(
        30, "Best hits of a development query that are kept to measure rerankers on.", least=5, most=1000
    )
