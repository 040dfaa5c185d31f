"""Settings of merging. Plain values; any thread."""

from __future__ import annotations

from dataclasses import dataclass

from shortlist_adapt.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSettings:
    """What is merged and tried."""

    last: int = setting(3, "How many of the last checkpoints are merged.", least=1, most=100)
    weights: tuple[float, ...] = setting(
        (0.5, 0.7, 0.85), "Weight of the trained model between the base (0) and itself (1).", least=0, most=1
    )
