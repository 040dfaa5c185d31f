"""Fusion and blending, against numbers worked out by hand and against properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist_server.domain import FusionMethod
from shortlist_server.pipeline.fusion import StageScores, blend, fuse, min_max


def ranking(*scores: tuple[int, float]) -> StageScores:
    return StageScores(scores=dict(scores), ranks={key: rank for rank, (key, _) in enumerate(scores, 1)})


def test_convex_fusion_weighs_the_normalised_scores() -> None:
    fused = fuse(
        ranking((1, 0.9), (2, 0.5), (3, 0.1)),
        ranking((3, 8.0), (2, 4.0)),
        FusionMethod.CONVEX,
        dense_weight=0.6,
        rrf_k=60,
    )
    by_key = dict(zip(fused.keys, fused.scores, strict=True))
    assert by_key == pytest.approx({1: 0.6, 2: 0.6 * 0.5 + 0.4 * 0.0, 3: 0.4})
    assert fused.keys == [1, 3, 2]
    assert fused.dense == pytest.approx({1: 1, 2: 0.5, 3: 0})
    assert fused.lexical == pytest.approx({3: 1, 2: 0})


def test_rrf_is_one_for_a_document_that_is_first_in_both() -> None:
    fused = fuse(ranking((7, 0.9), (8, 0.2)), ranking((7, 3.0)), FusionMethod.RRF, dense_weight=0.5, rrf_k=60)
    assert fused.keys == [7, 8]
    assert fused.scores[0] == pytest.approx(1.0)
    assert fused.scores[1] == pytest.approx((1 / 62) / (2 / 61))


def test_rrf_ignores_documents_that_were_scored_but_not_ranked() -> None:
    dense = StageScores(scores={1: 0.9, 2: 0.8}, ranks={1: 1})
    fused = fuse(dense, ranking((2, 3.0)), FusionMethod.RRF, dense_weight=0.5, rrf_k=60)
    assert fused.scores.tolist() == pytest.approx([0.5, 0.5])


def test_one_ranking_alone_keeps_its_order() -> None:
    fused = fuse(None, ranking((5, 9.0), (4, 3.0)), FusionMethod.CONVEX, dense_weight=0.6, rrf_k=60)
    assert fused.keys == [5, 4]
    assert fused.scores.tolist() == [1.0, 0.0]
    assert fused.dense == {}


def test_nothing_fuses_to_nothing() -> None:
    assert fuse(ranking(), None, FusionMethod.CONVEX, dense_weight=0.6, rrf_k=60).keys == []


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
    fused: list[float], weight: float, random: object
) -> None:
    ordered = np.array(sorted(fused, reverse=True))
    raw = np.array([random.uniform(-5, 5) for _ in fused])  # type: ignore[attr-defined]
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
