"""Whether a difference between two lists of per-query figures is more than chance, by ``scipy``.

The test is the paired randomisation test, which assumes nothing about the figures' distribution and agrees with the t
test on rankings (Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information
Retrieval Evaluation", 2007). Intervals are bootstrapped over queries. The random numbers are fixed, so that the same
figures give the same answer. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANCE = 0.05
"""A difference is called significant when chance alone gives one as large less often than this."""

CONFIDENCE = 0.95
RESAMPLES = 9_999
_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean and the 95 % interval it lies in."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What changed from one list of figures to another, over the same queries.

    Attributes:
        mean: second minus first.
        low, high: the 95 % interval of that.
        p: how often chance alone gives a difference as large, two-sided.
        better, worse, same: queries by what became of them.
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
        """Whether it is more than chance."""
        return self.p < SIGNIFICANCE


def interval(values: Sequence[float]) -> Interval:
    """The mean with its interval; as wide as nothing for values that are all equal."""
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
        # A pair without a difference is the same whichever way round, so the test may leave it out; one pair alone is
        # as large either way, which leaves p at 1.
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
    """P-values of several comparisons, adjusted so that 5 % of the discoveries are false (Benjamini and Hochberg)."""
    from scipy import stats

    return [float(value) for value in stats.false_discovery_control(list(p_values))] if p_values else []


def shown(p: float) -> str:
    """A p-value for a person: what is below the resolution of the test is not shown as 0."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
