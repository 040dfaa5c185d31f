"""Fusion and blending, against numbers worked out by hand and against properties."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist_server.domain import DenseCandidates, DenseStrategy, LexicalCandidates
from shortlist_server.pipeline.candidates import Candidates
from shortlist_server.ranking.fusion import blend, min_max, reciprocal_ranks, weighted_sum


def dense(*scores: tuple[int, float]) -> DenseCandidates:
    keys = np.array([key for key, _ in scores], dtype=np.int64)
    return DenseCandidates(
        passage_ids=10 * keys,
        keys=keys,
        scores=np.array([score for _, score in scores], dtype=np.float32),
        strategy=DenseStrategy.EXACT,
    )


def lexical(*scores: tuple[int, float]) -> LexicalCandidates:
    return LexicalCandidates(
        keys=np.array([key for key, _ in scores], dtype=np.int64),
        scores=np.array([score for _, score in scores], dtype=np.float32),
    )


def test_the_weighted_sum_weighs_the_normalised_scores() -> None:
    table = Candidates.of(dense((1, 0.9), (2, 0.5), (3, 0.1)), None, lexical((3, 8.0), (2, 4.0)))
    table.sort(weighted_sum([stage.normalized for stage in table.stages()], [0.6, 0.4]))
    assert table.keys.tolist() == [1, 3, 2]
    assert table.fused.tolist() == pytest.approx([0.6, 0.4, 0.3])
    assert table.dense is not None and table.lexical is not None
    assert table.dense.normalized.tolist() == pytest.approx([1, 0, 0.5])
    assert table.lexical.normalized.tolist() == pytest.approx([np.nan, 1, 0], nan_ok=True)


def test_rrf_is_one_for_a_document_that_is_first_in_both() -> None:
    table = Candidates.of(dense((7, 0.9), (8, 0.2)), None, lexical((7, 3.0)))
    fused = reciprocal_ranks([stage.ranks for stage in table.stages()], 60)
    assert fused.tolist() == pytest.approx([1.0, (1 / 62) / (2 / 61)])


def test_rrf_ignores_documents_that_were_scored_but_not_ranked() -> None:
    table = Candidates.of(dense((1, 0.9)), dense((2, 0.8)), lexical((2, 3.0)))
    fused = reciprocal_ranks([stage.ranks for stage in table.stages()], 60)
    assert fused.tolist() == pytest.approx([0.5, 0.5])


def test_one_ranking_alone_keeps_its_order() -> None:
    table = Candidates.of(None, None, lexical((5, 9.0), (4, 3.0)))
    table.sort(weighted_sum([stage.normalized for stage in table.stages()], [1.0]))
    assert (table.keys.tolist(), table.fused.tolist()) == ([5, 4], [1.0, 0.0])
    assert table.dense is None


def test_nothing_fuses_to_nothing() -> None:
    table = Candidates.of(dense(), None, None)
    table.sort(weighted_sum([stage.normalized for stage in table.stages()], [1.0]))
    assert len(table) == 0


def test_a_document_counts_with_its_best_passage_and_keeps_all_of_them() -> None:
    table = Candidates.of(dense((1, 0.9), (2, 0.8), (1, 0.7), (3, 0.6), (2, 0.5)), None, None)
    assert table.dense is not None
    assert table.dense.ranks.tolist() == [1, 2, 3]
    assert table.passages.rows.tolist() == [0, 0, 1, 1, 2]
    assert table.passages.dense.tolist() == pytest.approx([0.9, 0.7, 0.8, 0.5, 0.6])
    assert table.passages.best_of(np.array([0, 1]), 1).tolist() == [0, 2]
    assert table.passages.best_of(np.array([2, 0, 1]), 2).tolist() == [4, 0, 1, 2, 3]


def test_what_a_later_stage_scored_higher_is_the_better_passage() -> None:
    table = Candidates.of(dense((1, 0.9), (2, 0.8), (1, 0.7), (3, 0.6), (2, 0.5), (1, 0.4)), None, None)
    rows = np.array([1, 0, 2])
    passages = table.passages
    first, second, third = passages.passage_ids[passages.best_of(np.array([0]), 3)].tolist()
    passages.take_rerank(1, np.array([second, third]), np.array([0.1, 0.2]))
    best = passages.passage_ids[passages.best_of(rows, 3)].tolist()
    assert best[2:5] == [third, second, first]
    passages.take_rerank(2, np.array([first]), np.array([-5.0]))
    assert passages.passage_ids[passages.best_of(np.array([0]), 2)].tolist() == [first, third]


def test_sorting_moves_passages_with_their_documents() -> None:
    table = Candidates.of(dense((1, 0.9), (2, 0.8), (2, 0.7)), None, lexical((2, 5.0), (1, 1.0)))
    table.sort(weighted_sum([stage.normalized for stage in table.stages()], [0.1, 0.9]))
    assert table.keys.tolist() == [2, 1]
    assert table.passages.rows.tolist() == [0, 0, 1]
    assert table.passages.passage_ids.tolist() == [20, 20, 10]
    assert table.passages.dense.tolist() == pytest.approx([0.8, 0.7, 0.9])


def test_equal_scores_normalise_to_one() -> None:
    assert min_max(np.array([2.0, 2.0])).tolist() == [1.0, 1.0]


def test_blending_with_full_weight_gives_the_rerankers_order_in_the_fused_range() -> None:
    final, normalized = blend(np.array([0.9, 0.5, 0.4]), np.array([1.0, 3.0, 2.0]), 1.0)
    assert final.tolist() == pytest.approx([0.4, 0.9, 0.65])
    assert normalized.tolist() == pytest.approx([0.0, 1.0, 0.5])


def test_a_document_without_a_rerank_score_keeps_its_fused_score() -> None:
    final, _ = blend(np.array([0.9, 0.5, 0.4]), np.array([1.0, np.nan, 2.0]), 0.5)
    assert final[1] == 0.5


scores = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(scores, st.floats(0, 1), st.randoms())
def test_blending_never_lifts_or_drops_a_document_out_of_the_shortlists_range(
    fused: list[float], weight: float, random: Random
) -> None:
    ordered = np.array(sorted(fused, reverse=True))
    raw = np.array([random.uniform(-5, 5) for _ in fused])
    final, _ = blend(ordered, raw, weight)
    assert final.min() >= ordered.min() - 1e-9
    assert final.max() <= ordered.max() + 1e-9


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(-5, 5)), min_size=2, max_size=12, unique=True), st.floats(0, 1))
def test_blending_orders_as_mixing_two_min_max_normalised_scores_does(
    pairs: list[tuple[float, float]], weight: float
) -> None:
    fused = np.array([pair[0] for pair in pairs])
    raw = np.array([pair[1] for pair in pairs])
    if np.ptp(fused) < 1e-6 or np.ptp(raw) < 1e-6:
        return
    final, _ = blend(fused, raw, weight)
    plain = (1 - weight) * min_max(fused) + weight * min_max(raw)
    assert (final - fused.min()) / np.ptp(fused) == pytest.approx(plain, abs=1e-9)
