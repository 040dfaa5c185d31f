"""Spherical interpolation against its closed form, and where it has none."""

from __future__ import annotations

import math

import pytest
import torch

from shortlist_adapt.merging.slerp import average, slerp, slerp_all


def vectors(count: int, *, seed: int = 1, length: float | None = None) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = [torch.randn((6, 5), generator=draw, dtype=torch.float64) for _ in range(count)]
    return found if length is None else [one * (length / one.norm()) for one in found]


def closed_form(a: torch.Tensor, b: torch.Tensor, weight: float) -> torch.Tensor:
    angle = math.acos(float((a * b).sum() / (a.norm() * b.norm())))
    return (math.sin((1 - weight) * angle) * a + math.sin(weight * angle) * b) / math.sin(angle)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_tensors_of_one_norm_follow_the_closed_form_and_keep_the_norm(weight: float) -> None:
    a, b = vectors(2, length=3.0)
    merged = slerp(a, b, weight)
    assert torch.allclose(merged, closed_form(a, b, weight), atol=1e-12)
    assert float(merged.norm()) == pytest.approx(3.0, abs=1e-12)


def test_the_norm_changes_evenly_between_tensors_of_different_norm() -> None:
    a, b = vectors(1, length=2.0)[0], vectors(1, seed=2, length=6.0)[0]
    for weight in (0.25, 0.5, 0.75):
        assert float(slerp(a, b, weight).norm()) == pytest.approx(2.0 + 4.0 * weight, abs=1e-12)


def test_a_right_angle_is_halved() -> None:
    merged = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert merged.tolist() == pytest.approx([math.sqrt(0.5)] * 2)


def test_small_angles_are_exact() -> None:
    """The arc cosine in float64 would be wrong in the third digit of such an angle."""
    angle = 1e-5
    a, b = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    merged = slerp(a, b, 0.3)
    assert math.atan2(float(merged[1]), float(merged[0])) == pytest.approx(0.3 * angle, rel=1e-9)
    assert float(merged.norm()) == pytest.approx(1.0, abs=1e-14)


def test_parallel_opposite_and_zero_tensors_are_interpolated_linearly() -> None:
    (a,) = vectors(1)
    zero = torch.zeros_like(a)
    for first, second in ((a, 2 * a), (a, a), (a, -a), (zero, a), (a, zero), (zero, zero)):
        merged = slerp(first, second, 0.25)
        assert torch.allclose(merged, 0.75 * first + 0.25 * second, atol=1e-12)
        assert bool(merged.isfinite().all())


def test_half_precision_is_merged_in_float64() -> None:
    a, b = vectors(2)
    merged = slerp(a.bfloat16(), b.bfloat16(), 0.5)
    assert merged.dtype == torch.float64
    assert torch.equal(merged, slerp(a.bfloat16().double(), b.bfloat16().double(), 0.5))


def test_merging_several_tensors_weighs_them_alike() -> None:
    # Unit vectors of one plane: the result lies at the mean of their angles.
    angles = [0.1, 0.5, 0.6, 1.2]
    tensors = [torch.tensor([math.cos(one), math.sin(one)], dtype=torch.float64) for one in angles]
    merged = slerp_all(tensors)
    assert math.atan2(float(merged[1]), float(merged[0])) == pytest.approx(sum(angles) / 4, abs=1e-12)
    assert torch.equal(slerp_all(tensors[:1]), tensors[0])


def test_the_average_is_the_mean() -> None:
    a, b, c = vectors(3)
    assert torch.allclose(average([a, b, c]), (a + b + c) / 3, atol=1e-15)
