"""Packing token vectors, and scoring passages by them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shortlist_server.errors import DataCorrupted, InferenceFailed
from shortlist_server.inference.base import RerankCandidate, RerankQuery
from shortlist_server.inference.late_interaction import LateInteraction, maxsim, pack, unpack


def unit_rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    rows: np.ndarray = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (4, 1), (5, 2), (128, 32)])
def test_four_neighbours_become_one_row_of_length_one(tokens: int, rows: int) -> None:
    vectors = unit_rows(tokens, 384)
    unpacked = unpack(pack(vectors))
    pooled = np.stack([vectors[i : i + 4].mean(axis=0) for i in range(0, tokens, 4)])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert unpacked.shape == (rows, 384)
    assert np.abs(np.linalg.norm(unpacked, axis=1) - 1).max() < 1e-5
    assert (unpacked * pooled).sum(axis=1).min() > 0.999


def test_a_passage_of_128_tokens_takes_twelve_kilobytes() -> None:
    assert len(pack(unit_rows(128, 384))) == 8 + 32 * (4 + 384)


def test_maxsim_is_the_mean_over_query_tokens_of_the_best_row() -> None:
    query = unit_rows(7, 64, seed=1)
    packed = [pack(unit_rows(n, 64, seed=n)) for n in (3, 40, 1, 17)]
    expected = [float((query @ unpack(item).T).max(axis=1).mean()) for item in packed]
    assert np.allclose(maxsim(query, packed), expected, atol=1e-5)
    assert maxsim(query, []).shape == (0,)


def test_a_query_tokens_length_is_its_weight() -> None:
    query = unit_rows(3, 64, seed=1)
    packed = [pack(unit_rows(n, 64, seed=n)) for n in (3, 40)]
    weights = np.array([[1.0], [5.0], [0.5]], dtype=np.float32)
    expected = [float(((query @ unpack(item).T).max(axis=1) * weights[:, 0]).sum() / 6.5) for item in packed]
    assert np.allclose(maxsim(query * weights, packed), expected, atol=1e-5)
    assert maxsim(query * 0, packed).tolist() == [0.0, 0.0]


def test_rows_without_direction_are_scored_zero_and_not_nan() -> None:
    assert maxsim(unit_rows(2, 8), [pack(np.zeros((4, 8), dtype=np.float32))])[0] == 0.0


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_token_vectors_that_are_not_finite_are_not_packed(number: float) -> None:
    rows = unit_rows(5, 8)
    rows[3, 2] = number
    with pytest.raises(InferenceFailed, match="not finite"):
        pack(rows)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"\xff" + b[1:], lambda b: b""])
def test_damaged_bytes_are_refused(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DataCorrupted):
        maxsim(unit_rows(2, 8), [damage(pack(unit_rows(4, 8)))])


def test_vectors_of_another_model_are_refused() -> None:
    with pytest.raises(InferenceFailed, match="another width"):
        maxsim(unit_rows(2, 16), [pack(unit_rows(4, 8))])


def test_a_candidate_without_token_vectors_scores_nan_and_the_others_their_own() -> None:
    query = RerankQuery(text="q", token_vectors=unit_rows(3, 8))
    packed = pack(unit_rows(8, 8, seed=5))
    candidates = [RerankCandidate(), RerankCandidate(token_vectors=packed), RerankCandidate()]
    scores = LateInteraction().score(query, candidates, lambda _: True).scores
    assert np.isnan(scores).tolist() == [True, False, True]
    assert query.token_vectors is not None
    assert scores[1] == maxsim(query.token_vectors, [packed])[0]


def test_it_stops_when_told() -> None:
    answers = iter([True, False])
    candidates = [RerankCandidate(token_vectors=pack(unit_rows(4, 8)))] * 1000
    query = RerankQuery(text="q", token_vectors=unit_rows(3, 8))
    scores = LateInteraction().score(query, candidates, lambda _: next(answers))
    assert 0 < len(scores.scores) < 1000
    assert len(scores.truncated_tokens) == len(scores.scores)


def test_a_query_without_token_vectors_fails() -> None:
    with pytest.raises(InferenceFailed):
        LateInteraction().score(RerankQuery(text="q"), [RerankCandidate()], lambda _: True)
