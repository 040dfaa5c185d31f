"""The settings that tuning chooses from, and how a choice becomes the settings of a search. Values; any thread."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shortlist import Rerank, RerankStage, SearchDefaults

TENTHS = tuple(number / 10 for number in range(11))
FIFTHS = TENTHS[::2]

OWN_STAGE = RerankStage()
"""A collection's own reranking in one stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenStage:
    """A rerank stage of a choice. With weight 0 it is left out.

    ``stage`` has what is not tuned: model, instruction and deadline share.
    """

    stage: RerankStage = OWN_STAGE
    weight: float
    depth: int

    def settings(self) -> RerankStage:
        """The whole stage."""
        return replace(self.stage, weight=self.weight, depth=self.depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A combination of settings. ``stages`` has every rerank stage, those with weight 0 included."""

    dense_weight: float
    candidates: int
    stages: tuple[ChosenStage, ...]

    def over(self, present: SearchDefaults) -> SearchDefaults:
        """The presets of a collection with these settings in them; all others stay.

        The mode becomes "hybrid", because the weights apply to the candidates of both indexes.
        """
        return replace(
            present,
            mode="hybrid",
            candidates=replace(present.candidates, dense=self.candidates, lexical=self.candidates),
            fusion=replace(present.fusion, method="weighted_sum", dense_weight=self.dense_weight),
            rerank=self._rerank(present.rerank),
        )

    def search(self) -> dict[str, Any]:
        """Arguments of ``Client.search`` that ask for these settings."""
        defaults = self.over(SearchDefaults())
        return {
            "mode": defaults.mode,
            "candidates": defaults.candidates,
            "fusion": defaults.fusion,
            "rerank": defaults.rerank,
        }

    def _rerank(self, present: Rerank) -> Rerank:
        active = [stage for stage in self.stages if stage.weight > 0]
        if not active:
            return replace(present, enabled=False)
        if is_plain(self.stages) and not present.stages:
            return replace(present, weight=active[0].weight, depth=active[0].depth)
        return Rerank(enabled=True, on_failure=present.on_failure, stages=tuple(stage.settings() for stage in active))

    @property
    def cost(self) -> tuple[int, ...]:
        """Sort key: the cost of a search with these settings, lowest first. The last stage has the slowest model."""
        depths = [stage.depth if stage.weight > 0 else 0 for stage in self.stages]
        return (*reversed(depths), self.candidates)


def is_plain(stages: Sequence[ChosenStage]) -> bool:
    """Whether this is the collection's own reranking in one stage, whose settings need no list of stages."""
    return [stage.stage for stage in stages] == [OWN_STAGE]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageValues:
    """The values of one rerank stage to choose from."""

    stage: RerankStage = OWN_STAGE
    weights: Sequence[float] = TENTHS
    depths: Sequence[int] = (20, 50, 100)

    def stage_at(self, *, depth: int, weight: float) -> RerankStage:
        """The stage with these settings."""
        return replace(self.stage, depth=depth, weight=weight)

    def choices(self) -> Iterator[ChosenStage]:
        """Yields every combination once; a stage that is left out has one depth."""
        if 0 in self.weights:
            yield ChosenStage(stage=self.stage, weight=0.0, depth=min(self.depths))
        for depth, weight in itertools.product(self.depths, self.weights):
            if weight > 0:
                yield ChosenStage(stage=self.stage, weight=weight, depth=depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The values to choose from."""

    dense_weights: Sequence[float] = TENTHS
    candidates: Sequence[int] = (50, 100, 200)
    stages: Sequence[StageValues] = (StageValues(),)

    @classmethod
    def of(cls, stages: Sequence[RerankStage]) -> Grid:
        """The default values for rerank stages; a depth or weight that a stage sets is the only one.

        Values of several stages multiply, so there are fewer of each. The last stage is the most expensive one.
        """
        if len(stages) == 1:
            return cls(stages=(_values(stages[0], TENTHS, (20, 50, 100)),))
        *others, last = stages
        return cls(
            stages=(
                *(_values(stage, FIFTHS, (50, 100)) for stage in others),
                _values(last, FIFTHS, (10, 20)),
            )
        )

    @property
    def is_plain(self) -> bool:
        """See ``is_plain``."""
        return [values.stage for values in self.stages] == [OWN_STAGE]

    def choices(self) -> list[Choice]:
        """Every combination once."""
        each = itertools.product(*(values.choices() for values in self.stages))
        return [
            Choice(dense_weight=dense, candidates=candidates, stages=stages)
            for candidates, dense, stages in itertools.product(self.candidates, self.dense_weights, each)
        ]


def _values(stage: RerankStage, weights: Sequence[float], depths: Sequence[int]) -> StageValues:
    return StageValues(
        stage=replace(stage, weight=None, depth=None),
        weights=weights if stage.weight is None else (stage.weight,),
        depths=depths if stage.depth is None else (stage.depth,),
    )
