"""Tuning: rankings that are worked out are those the server's own formulas give, and choices are not luck."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist import Candidates, Fusion, Rerank, RerankStage, SearchDefaults
from shortlist_cli.evaluation.choices import Choice, ChosenStage, Grid, StageValues
from shortlist_cli.evaluation.settings import InvalidSweep
from shortlist_cli.evaluation.tune_search import grid_of
from shortlist_cli.evaluation.tuning import LIMIT, Observation, rankings, tune
from shortlist_server.domain import DenseCandidates, DenseStrategy, LexicalCandidates
from shortlist_server.pipeline.candidates import Candidates as Table
from shortlist_server.pipeline.candidates import RerankColumns
from shortlist_server.ranking.fusion import weighted_sum
from shortlist_server.ranking.significance import difference


def observed(seed: int, documents: int = 120, stages: int = 1) -> Observation:
    """Random scores: about half of the documents found by words, most by meaning."""
    numbers = np.random.default_rng(seed)
    cosine = numbers.uniform(-0.1, 0.9, documents)
    words = np.where(numbers.random(documents) < 0.5, numbers.gamma(2.0, 3.0, documents), np.nan)
    dense_rank = np.zeros(documents, dtype=np.int64)
    dense_rank[np.argsort(-cosine)[:80]] = np.arange(1, 81)
    lexical_rank = np.zeros(documents, dtype=np.int64)
    by_words = np.argsort(-np.nan_to_num(words, nan=-1.0))[: int((~np.isnan(words)).sum())]
    lexical_rank[by_words] = np.arange(1, len(by_words) + 1)
    reranks = [np.where(numbers.random(documents) < 0.9, numbers.normal(size=documents), np.nan) for _ in range(stages)]
    return Observation(
        ids=[f"d{number}" for number in range(documents)],
        cosine=cosine,
        lexical=words,
        reranks=reranks,
        dense_rank=dense_rank,
        lexical_rank=lexical_rank,
    )


def by_the_server(at: Observation, choice: Choice) -> list[str]:
    n = range(len(at.ids))
    dense = sorted((i for i in n if 0 < at.dense_rank[i] <= choice.candidates), key=lambda i: at.dense_rank[i])
    words = sorted((i for i in n if 0 < at.lexical_rank[i] <= choice.candidates), key=lambda i: at.lexical_rank[i])
    table = Table.of(
        _dense(at, dense),
        _dense(at, [i for i in words if i not in dense]),
        LexicalCandidates(keys=np.array(words, dtype=np.int64), scores=at.lexical[words].astype(np.float32)),
    )
    weights = [choice.dense_weight, 1 - choice.dense_weight]
    table.sort(weighted_sum([stage.normalized for stage in table.stages()], weights))
    for number, stage in enumerate(choice.stages, 1):
        rows = table.order[: stage.depth]
        scores = at.reranks[number - 1][table.keys[rows]]
        if stage.weight > 0 and not np.isnan(scores).all():
            known = ~np.isnan(scores)
            columns = RerankColumns.of(number, len(table), rows[known], scores[known])
            table.take_rerank(columns, stage.depth, stage.weight)
    return [at.ids[key] for key in table.keys[table.order][:LIMIT]]


def _dense(at: Observation, places: list[int]) -> DenseCandidates:
    keys = np.array(places, dtype=np.int64)
    return DenseCandidates(
        passage_ids=keys, keys=keys, scores=at.cosine[keys].astype(np.float32), strategy=DenseStrategy.EXACT
    )


@pytest.mark.parametrize("seed", range(5))
def test_rankings_are_those_of_the_servers_formulas(seed: int) -> None:
    at = observed(seed)
    grid = Grid(
        dense_weights=(0.0, 0.3, 0.6, 1.0),
        stages=(StageValues(weights=(0.0, 0.3, 1.0), depths=(5, 20, 200)),),
        candidates=(7, 50),
    )
    choices = grid.choices()
    for choice, ranking in zip(choices, rankings(at, choices), strict=True):
        assert list(ranking) == by_the_server(at, choice), choice


@pytest.mark.parametrize("seed", range(3))
def test_rankings_after_several_stages_are_those_of_the_servers_formulas(seed: int) -> None:
    at = observed(seed, stages=3)
    grid = Grid(
        dense_weights=(0.3, 1.0),
        stages=(
            StageValues(weights=(0.0, 0.4), depths=(30,)),
            StageValues(weights=(0.0, 0.6, 1.0), depths=(5, 50)),
            StageValues(weights=(0.0, 0.5), depths=(3, 20)),
        ),
        candidates=(40,),
    )
    choices = grid.choices()
    assert len(choices) == 2 * 2 * 5 * 3
    for choice, ranking in zip(choices, rankings(at, choices), strict=True):
        assert list(ranking) == by_the_server(at, choice), choice


def test_a_query_that_finds_nothing_has_an_empty_ranking() -> None:
    none = np.empty(0)
    ranks = np.empty(0, dtype=np.int64)
    empty = Observation(ids=[], cosine=none, lexical=none, reranks=[none], dense_rank=ranks, lexical_rank=ranks)
    assert rankings(empty, Grid().choices()[:3]) == [(), (), ()]


def test_without_a_second_stage_its_depth_is_not_a_choice() -> None:
    values = StageValues(weights=(0.0, 0.5), depths=(20, 50))
    choices = Grid(dense_weights=(0.5,), stages=(values,), candidates=(100,)).choices()
    assert [(stage.weight, stage.depth) for choice in choices for stage in choice.stages] == [
        (0.0, 20),
        (0.5, 20),
        (0.5, 50),
    ]


def one_stage(weight: float, depth: int, *, dense_weight: float = 0.5, candidates: int = 100) -> Choice:
    return Choice(dense_weight=dense_weight, candidates=candidates, stages=(ChosenStage(weight=weight, depth=depth),))


CHOICES = [one_stage(0.4, depth, candidates=candidates) for depth, candidates in ((50, 100), (20, 100), (20, 50))]


def test_a_real_gain_is_found_and_held_out_figures_have_it_too() -> None:
    numbers = np.random.default_rng(3)
    present = numbers.uniform(0.2, 0.7, 200)
    scores = np.column_stack([present + 0.1, present - 0.1, present])
    tuned = tune(present, scores, CHOICES)
    assert tuned.choice == CHOICES[0]
    assert tuned.held_out == pytest.approx(present + 0.1)
    assert tuned.agreement == 1


def test_noise_leads_to_no_gain_on_queries_without_a_part_in_the_choice() -> None:
    numbers = np.random.default_rng(4)
    present = numbers.uniform(0, 1, 400)
    choices = [one_stage(0.4, 50, dense_weight=w / 200) for w in range(200)]
    scores = np.clip(present[:, None] + numbers.normal(0, 0.3, (400, 200)), 0, 1)
    tuned = tune(present, scores, choices)
    assert difference(present.tolist(), tuned.fitted.tolist()).significant
    assert not difference(present.tolist(), tuned.held_out.tolist()).significant


def test_what_is_as_good_as_the_present_is_left_as_it_is() -> None:
    present = np.linspace(0, 1, 50)
    assert tune(present, np.column_stack([present + 0.0005] * 3), CHOICES).choice is None


def test_of_equals_the_cheapest_is_chosen() -> None:
    present = np.linspace(0, 0.5, 50)
    assert tune(present, np.column_stack([present + 0.3] * 3), CHOICES).choice == CHOICES[2]


def test_applying_changes_what_was_tuned_and_leaves_the_rest() -> None:
    present = SearchDefaults(
        mode="lexical",
        candidates=Candidates(dense=10, ef=200),
        fusion=Fusion(method="rrf", rrf_k=30),
        rerank=Rerank(weight=0.9, instruction="Find it"),
    )
    assert CHOICES[0].over(present) == SearchDefaults(
        mode="hybrid",
        candidates=Candidates(dense=100, lexical=100, ef=200),
        fusion=Fusion(method="weighted_sum", dense_weight=0.5, rrf_k=30),
        rerank=Rerank(weight=0.4, depth=50, instruction="Find it"),
    )
    without = one_stage(0, 20)
    assert without.over(present).rerank == Rerank(enabled=False, weight=0.9, instruction="Find it")


def test_applying_stages_leaves_out_those_of_no_weight_and_keeps_what_is_not_tuned() -> None:
    late, cross = RerankStage(model="late-interaction"), RerankStage(model="tuned", instruction="Find it")
    stages = tuple(
        ChosenStage(stage=stage, weight=weight, depth=depth)
        for stage, weight, depth in ((late, 0.4, 100), (RerankStage(model="slow"), 0.0, 20), (cross, 0.6, 10))
    )
    present = SearchDefaults(rerank=Rerank(enabled=False, depth=3, on_failure="fail"))
    assert Choice(dense_weight=0.5, candidates=50, stages=stages).over(present).rerank == Rerank(
        enabled=True,
        on_failure="fail",
        stages=(
            RerankStage(model="late-interaction", weight=0.4, depth=100),
            RerankStage(model="tuned", instruction="Find it", weight=0.6, depth=10),
        ),
    )


def test_among_equals_the_last_stage_decides_what_is_cheap() -> None:
    def choice(first: int, last: int, weight: float = 0.5) -> Choice:
        stages = (ChosenStage(weight=0.5, depth=first), ChosenStage(weight=weight, depth=last))
        return Choice(dense_weight=0.5, candidates=100, stages=stages)

    ordered = [choice(100, 50, weight=0.0), choice(50, 10), choice(100, 10), choice(50, 20)]
    assert sorted([*ordered[2:], *ordered[:2]], key=lambda one: one.cost) == ordered


def test_both_indexes_are_asked_whatever_the_collection_presets() -> None:
    assert CHOICES[0].search()["mode"] == "hybrid"


def test_a_sweep_replaces_the_values_to_choose_from() -> None:
    grid = grid_of(["rerank.depth=5,10", "fusion.dense_weight=0.5"])
    (stage,) = grid.stages
    assert (stage.depths, grid.dense_weights, grid.candidates) == ((5, 10), (0.5,), Grid().candidates)


def test_a_sweep_names_a_stage_by_its_place_and_without_one_the_last() -> None:
    stages = [RerankStage(model="late-interaction", depth=100), RerankStage(model="tuned")]
    grid = grid_of(["rerank.weight=0.5", "rerank.stages[0].weight=0.1,0.2", "rerank.stages[1].depth=7"], stages)
    first, last = grid.stages
    assert (first.stage.model, first.weights, first.depths) == ("late-interaction", (0.1, 0.2), (100,))
    assert (last.stage.model, last.weights, last.depths) == ("tuned", (0.5,), (7,))
    with pytest.raises(InvalidSweep, match=r"the last of 2 rerank stages is rerank\.stages\[1\]"):
        grid_of(["rerank.stages[2].depth=7"], stages)
    with pytest.raises(InvalidSweep, match="swept twice"):
        grid_of(["rerank.depth=5", "rerank.stages[1].depth=10"], stages)


@pytest.mark.parametrize(
    "sweep",
    [
        "mode=dense",
        "rerank.weight=1.5",
        "rerank.depth=0",
        "candidates=x",
        "rerank.stages[0].weight=2",
        "rerank.stages=1",
    ],
)
def test_a_sweep_that_tuning_cannot_use_is_refused(sweep: str) -> None:
    with pytest.raises(InvalidSweep):
        grid_of([sweep])


def test_a_path_is_swept_once() -> None:
    with pytest.raises(InvalidSweep, match="swept twice"):
        grid_of(["rerank.depth=5", "rerank.depth=10"])
