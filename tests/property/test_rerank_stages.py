"""Rerank stages over a table of candidates give what a plain composition of them gives, whatever they score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shortlist_server.pipeline.candidates import Candidates, PassageColumns, RerankColumns

Ranking = list[tuple[int, float]]
"""Documents with their scores, best first."""

SHARES = st.integers(0, 20).map(lambda number: number / 20)
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Stage:
    """A stage, and the raw score that its reranker would give each document; None for one that it cannot read."""

    depth: int
    weight: float
    raw: Sequence[float | None]


@st.composite
def searches(draw: st.DrawFn) -> tuple[list[float], list[Stage]]:
    """Fused scores, best first, and stages."""
    fused = sorted(draw(st.lists(SHARES, min_size=1, max_size=12)), reverse=True)
    raw = st.lists(
        st.none() | st.integers(-3, 3).map(float) | st.floats(-5, 5), min_size=len(fused), max_size=len(fused)
    )
    stages = st.builds(Stage, depth=st.integers(1, 15), weight=SHARES | st.floats(0, 1), raw=raw)
    return fused, draw(st.lists(stages, max_size=4))


def by_the_table(fused: Sequence[float], stages: Sequence[Stage]) -> Candidates:
    scores = np.array(fused)
    table = Candidates(
        keys=np.arange(len(fused)),
        dense=None,
        lexical=None,
        passages=PassageColumns.of(NOTHING, NOTHING, np.empty(0)),
        found=None,
        fused=scores,
        final=scores,
        order=np.arange(len(fused)),
    )
    for number, stage in enumerate(stages, 1):
        rows = np.array([row for row in table.order[: stage.depth].tolist() if stage.raw[row] is not None], np.int64)
        if len(rows):
            raw = np.array([stage.raw[row] for row in rows.tolist()], np.float64)
            table.take_rerank(RerankColumns.of(number, len(table), rows, raw), stage.depth, stage.weight)
    return table


def composed(fused: Sequence[float], stages: Sequence[Stage]) -> list[Ranking]:
    """The ranking after fusion and after each stage, by the formulas of the contract."""
    rankings = [list(enumerate(fused))]
    for stage in stages:
        ranking = rankings[-1]
        top, rest = ranking[: stage.depth], ranking[stage.depth :]
        known = {row: score for row, _ in top if (score := stage.raw[row]) is not None}
        if not known:
            rankings.append(ranking)
            continue
        low, spread = min(known.values()), max(known.values()) - min(known.values())
        least, most = min(score for _, score in top), max(score for _, score in top)
        blended = []
        for place, (row, score) in enumerate(top):
            normal, mapped = -1.0, score
            if row in known:
                normal = (known[row] - low) / spread if spread > 0 else 1.0
                mapped = least + normal * (most - least)
            after = (1 - stage.weight) * score + stage.weight * mapped
            blended.append((-after, -normal, place, row, after))
        rankings.append([(row, after) for _, _, _, row, after in sorted(blended)] + rest)
    return rankings


@given(searches())
def test_stages_compose(search: tuple[list[float], list[Stage]]) -> None:
    fused, stages = search
    table = by_the_table(fused, stages)
    assert [(row, float(table.final[row])) for row in table.order.tolist()] == composed(fused, stages)[-1]


@given(searches())
def test_a_stage_never_moves_a_document_past_its_depth(search: tuple[list[float], list[Stage]]) -> None:
    fused, stages = search
    for number, stage in enumerate(stages, 1):
        before = by_the_table(fused, stages[: number - 1])
        after = by_the_table(fused, stages[:number])
        assert set(after.order[: stage.depth].tolist()) == set(before.order[: stage.depth].tolist())
        beyond = before.order[stage.depth :]
        assert after.order[stage.depth :].tolist() == beyond.tolist()
        assert after.final[beyond].tolist() == before.final[beyond].tolist()


@given(searches())
def test_each_stage_tells_score_and_rank_after_it(search: tuple[list[float], list[Stage]]) -> None:
    fused, stages = search
    table, rankings = by_the_table(fused, stages), composed(fused, stages)
    told = {(score.stage, row): score for row in range(len(fused)) for score in table.reranks_at(row)}
    for number, stage in enumerate(stages, 1):
        before, after = rankings[number - 1], rankings[number]
        scored = {row for row, _ in before[: stage.depth] if stage.raw[row] is not None}
        assert {row for of, row in told if of == number} == scored
        for rank, (row, score) in enumerate(after, 1):
            if row in scored:
                one = told[number, row]
                assert (one.score, one.blended, one.blended_rank) == (stage.raw[row], score, rank)
        best = sorted(scored, key=lambda row: told[number, row].rank)
        assert [told[number, row].rank for row in best] == list(range(1, len(scored) + 1))
        raw = [told[number, row].score for row in best]
        assert raw == sorted(raw, reverse=True)
