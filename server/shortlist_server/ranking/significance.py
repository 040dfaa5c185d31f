"""Tests, with ``scipy``, whether two lists of per-query figures differ by more than chance.

The test is the paired randomisation test, which assumes nothing about the figures' distribution and agrees with the t
test on rankings (Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information
Retrieval Evaluation", 2007). Intervals are bootstrapped over queries. The seed is fixed: the same figures give the same
answer. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANCE = 0.05
"""A difference is significant when chance alone produces one as large less often than this."""

CONFIDENCE = 0.95
RESAMPLES = 9_999
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What changed from one list of figures to another, over the same queries.

    Attributes:
        mean: second minus first.
        low, high: the 95 % interval of the mean.
        p: how often chance alone produces a difference as large, two-sided.
        better, worse, same: number of queries that gained, lost or stayed.
    """

    mean: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    same: int

    @property
    def significant(self) -> bool:
        """Whether chance is an unlikely explanation: ``p`` is below ``SIGNIFICANCE``."""
        return self.p < SIGNIFICANCE


def interval(values: Sequence[float]) -> Interval:
    """The mean with its interval; the interval of equal values has no width."""
    import numpy as np
    from scipy import stats

    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2 or float(np.ptp(array)) == 0:
        return Interval(mean=mean, low=mean, high=mean)
    found = stats.bootstrap(
        (array,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    return Interval(mean=mean, low=float(found.low), high=float(found.high))


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compares figures of the same queries in the same order."""
    import numpy as np
    from scipy import stats

    before, after = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    change = after - before
    changed = np.abs(change) > 1e-12
    p = 1.0
    if changed.sum() > 1:
        # Swapping a pair of equal values changes nothing, so the test may leave such pairs out. A single pair differs
        # by as much when swapped, so p stays 1.
        p = float(
            stats.permutation_test(
                (after[changed], before[changed]),
                lambda a, b, axis: np.mean(a - b, axis=axis),
                permutation_type="samples",
                vectorized=True,
                n_resamples=RESAMPLES,
                batch=_BATCH,
                rng=np.random.default_rng(7),
            ).pvalue
        )
    bounds = interval(change.tolist())
    return Difference(
        mean=bounds.mean,
        low=bounds.low,
        high=bounds.high,
        p=p,
        better=int((change > 1e-12).sum()),
        worse=int((change < -1e-12).sum()),
        same=int((~changed).sum()),
    )


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values of several comparisons to a false discovery rate of 5 % (Benjamini and Hochberg)."""
    from scipy import stats

    return [float(value) for value in stats.false_discovery_control(list(p_values))] if p_values else []


def shown(p: float) -> str:
    """A p-value as text; one below the resolution of the test reads "<0.001", never 0."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
