"""The rule of the gate: the test of the difference, and the reasons for a refusal. Pure functions; any thread."""

from __future__ import annotations

from collections.abc import Sequence

from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.reporting.decision import GuardedOutcome, Side, Trial, chance
from shortlist_server.ranking.significance import SIGNIFICANCE, Difference, difference

TOLERANCE = 0.001
"""Trials this close on the development split count as equal."""


def compare(serving: Sequence[float], candidate: Sequence[float], margin: float) -> tuple[Difference, float]:
    """The difference of both sides' figures, and how often chance produces a gain over the margin.

    Args:
        serving, candidate: figures of the same queries in the same order.
        margin: the gain that must be exceeded, on the scale of the figures.
    """
    plain = difference(serving, candidate)
    if margin == 0:
        return plain, plain.p
    return plain, difference(serving, [figure - margin for figure in candidate]).p


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The trial with the best development figure; the first of those within ``TOLERANCE`` of it."""
    best = max(trial.development for trial in trials)
    return next(trial for trial in trials if trial.development >= best - TOLERANCE)


def objection(
    *,
    of: Difference,
    p: float,
    serving: Side,
    candidate: Side,
    guarded: Sequence[GuardedOutcome],
    alone: Side | None,
    settings: GateSettings,
) -> str:
    """Why the candidate may not be published, as one sentence; "" when it may. The first reason that holds.

    Args:
        of, p: what ``compare`` found on the held-out queries.
        serving, candidate: both sides on the held-out queries.
        guarded: the guarded sets.
        alone: the present models with tuned settings, on the held-out queries; None where tuning found none.
        settings: the gate's.
    """
    beyond = f" beyond the margin of {settings.margin:g}" if settings.margin else ""
    if of.mean <= settings.margin:
        return f"final nDCG@10 on held-out queries does not rise{beyond} ({of.mean:+.4f})"
    if p >= SIGNIFICANCE:
        return f"chance explains the gain of {of.mean:+.4f}{beyond} on held-out queries ({chance(p)})"
    for one in guarded:
        if not one.holds:
            return (
                f"the guarded set {one.name} falls from {one.serving:.4f} to {one.candidate:.4f}, "
                f"by more than {settings.guarded_margin:g}"
            )
    lost = sum(candidate.degraded.values()) - sum(serving.degraded.values())
    if lost > 0:
        return f"{lost} more searches were degraded than before ({', '.join(candidate.degraded)})"
    if settings.max_median_ms and candidate.median_ms > settings.max_median_ms:
        return f"a search takes {candidate.median_ms:.0f} ms, more than {settings.max_median_ms:g}"
    if alone is not None and candidate.ndcg_at_10 - alone.ndcg_at_10 <= settings.margin:
        return (
            f"tuned settings of the present models gain as much ({alone.ndcg_at_10:.4f} on held-out queries, and "
            f"{candidate.ndcg_at_10:.4f} with the candidate); apply them with: shortlist tune-search --apply"
        )
    return ""
