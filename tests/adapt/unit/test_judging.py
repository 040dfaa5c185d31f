"""The rule of the gate: which gains count, and the reason of each refusal."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from shortlist_adapt.gating.judging import best_trial, compare, objection
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.reporting.decision import GuardedOutcome, Side, Trial

BEFORE = [0.0, 0.5, 0.5, 1.0, 0.2] * 10
AFTER = [0.5, 0.6, 0.5, 1.0, 0.4] * 10


def trial(name: str, development: float) -> Trial:
    return Trial(name=name, development=development, untuned=development, settings={})


def side(figure: float, **changes: Any) -> Side:
    return dataclasses.replace(Side(ndcg_at_10=figure, median_ms=20.0, degraded={}), **changes)


def why(
    after: list[float] = AFTER,
    settings: GateSettings | None = None,
    guarded: list[GuardedOutcome] | None = None,
    **changes: Any,
) -> str:
    settings = settings or GateSettings()
    of, p = compare(BEFORE, after, settings.margin)
    arguments: dict[str, Any] = {
        "serving": side(0.44),
        "candidate": side(0.6),
        "alone": None,
        **changes,
    }
    return objection(of=of, p=p, guarded=guarded or [], settings=settings, **arguments)


def guard(candidate: float, *, holds: bool) -> GuardedOutcome:
    return GuardedOutcome(
        name="g/test",
        collection="g",
        queries=5,
        serving=0.5,
        candidate=candidate,
        low=-0.1,
        high=0.1,
        affected=True,
        holds=holds,
    )


def test_a_gain_that_chance_does_not_explain_passes() -> None:
    assert why() == ""


def test_a_loss_and_an_equal_ranking_are_refused() -> None:
    assert "does not rise (-" in why([figure / 2 for figure in BEFORE])
    assert "does not rise (+0.0000)" in why(BEFORE)


def test_a_gain_of_few_queries_is_chance() -> None:
    few = list(BEFORE)
    few[0], few[4] = 1.0, 0.6
    assert "chance explains the gain of +0.0280 on held-out queries (p = 0.5" in why(few)


@pytest.mark.parametrize(("margin", "passes"), [(0.0, True), (0.1, True), (0.155, False), (0.2, False)])
def test_the_gain_must_exceed_the_margin_by_more_than_chance(margin: float, passes: bool) -> None:
    # The mean gain is 0.16, with a standard error of 0.025.
    assert (why(settings=GateSettings(margin=margin)) == "") is passes


def test_a_guarded_set_that_falls_is_named() -> None:
    assert why(guarded=[guard(0.6, holds=True)]) == ""
    assert why(guarded=[guard(0.6, holds=True), guard(0.48, holds=False)]) == (
        "the guarded set g/test falls from 0.5000 to 0.4800, by more than 0.01"
    )


def test_more_degraded_searches_than_before_are_refused() -> None:
    assert (
        why(serving=side(0.44, degraded={"rerank_partial": 3}), candidate=side(0.6, degraded={"rerank_failed": 3}))
        == ""
    )
    assert "3 more searches were degraded than before (rerank_failed)" in why(
        candidate=side(0.6, degraded={"rerank_failed": 3})
    )


def test_a_slow_candidate_is_refused_where_there_is_a_limit() -> None:
    slow = side(0.6, median_ms=180.0)
    assert why(candidate=slow) == ""
    assert "takes 180 ms, more than 150" in why(candidate=slow, settings=GateSettings(max_median_ms=150))


def test_a_gain_that_settings_alone_bring_does_not_count_for_a_model() -> None:
    assert why(alone=side(0.5)) == ""
    assert "tuned settings of the present models gain as much (0.6000 on held-out" in why(alone=side(0.6))
    assert "gain as much" in why(alone=side(0.56), settings=GateSettings(margin=0.05))


def test_of_trials_that_are_about_equal_the_one_that_changes_least_is_best() -> None:
    trials = [trial("reranker", 0.61), trial("embedder", 0.6199), trial("embedder and reranker", 0.62)]
    assert best_trial(trials).name == "embedder"
