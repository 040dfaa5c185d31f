"""Which hits of a search become negatives. Pure functions; any thread.

The margin is positive-aware (arXiv 2407.15831): a hit whose cosine comes near that of the known answer is probably an
answer that nobody judged. The best hits that stay below the margin are the hardest negatives that are safe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from shortlist_adapt.mining.settings import MiningSettings
from shortlist_adapt.searching import Found

_RANKINGS: Mapping[str, Callable[[Found], int]] = {
    "lexical": lambda one: one.lexical_rank,
    "dense": lambda one: one.dense_rank,
}


def choose(
    found: Sequence[Found],
    positives: Collection[str],
    rejected: Collection[str],
    settings: MiningSettings,
    same: Callable[[str], object],
) -> list[Found]:
    """Up to ``settings.negatives`` hits, so ordered that any first few of them have the shares of the settings.

    Args:
        found: the hits of the query, best first by fused score.
        positives: documents that answer it, all twins included.
        rejected: documents that people judged not to answer it. Those among the hits come first, and need no margin.
        settings: shares, margin, number.
        same: equal for documents of equal content; only one of them is taken.
    """
    bound = _bound(found, positives, settings)
    skipped = 0 if any(one.id in positives for one in found) else settings.skipped
    taken = {same(id) for id in positives}

    def fits(one: Found) -> bool:
        return one.cosine is None or bound is None or one.cosine <= bound

    judged = [one for one in found if one.id in rejected]
    ranked = [(place, one) for place, one in enumerate(found, start=1) if one.id not in rejected and fits(one)]
    rankings = {"fused": [one for place, one in ranked if place > skipped]}
    for name, rank_of in _RANKINGS.items():
        by_rank = sorted((rank_of(one), place, one) for place, one in ranked if rank_of(one) > skipped)
        rankings[name] = [one for _, _, one in by_rank]
    chosen: list[Found] = []

    def take(candidates: list[Found]) -> bool:
        while candidates:
            one = candidates.pop(0)
            if same(one.id) not in taken:
                taken.add(same(one.id))
                chosen.append(one)
                return True
        return False

    while len(chosen) < settings.negatives and take(judged):
        pass
    shares = _shares(settings)
    given = dict.fromkeys(shares, 0)
    while len(chosen) < settings.negatives:
        left = [name for name in shares if rankings[name]]
        if not left:
            break
        # The ranking that lags behind its share the most; one without a share only where the others are used up.
        wanted = [name for name in left if shares[name]] or left
        turn = sum(given.values()) + 1
        name = max(wanted, key=lambda name: shares[name] * turn - given[name])
        given[name] += take(rankings[name])
    return chosen


def _bound(found: Sequence[Found], positives: Collection[str], settings: MiningSettings) -> float | None:
    """The largest cosine that a negative may have; None where no answer was found.

    The least similar of the answers that were found decides, because each of them is trained on.
    """
    known = [one.cosine for one in found if one.id in positives and one.cosine is not None]
    return settings.max_similarity * min(known) if known else None


def _shares(settings: MiningSettings) -> dict[str, float]:
    """The share of each ranking, the fused one first; they add up to 1."""
    parts = {"lexical": settings.lexical_share, "dense": settings.dense_share}
    total = max(sum(parts.values()), 1.0)
    return {"fused": max(1.0 - sum(parts.values()), 0.0), **{name: share / total for name, share in parts.items()}}
