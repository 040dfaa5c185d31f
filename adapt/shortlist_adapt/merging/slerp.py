"""Spherical linear interpolation (slerp) of tensors.

Slerp turns one direction into another at an even rate, while the norm changes evenly. Everything is computed in
float64. Pure functions of tensors. Importing this module loads torch.

Source: Shoemake, "Animating Rotation with Quaternion Curves" (1985). The Qwen3 Embedding report merges checkpoints this
way (arXiv 2506.05176).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST_ANGLE = 1e-6
"""Below this angle, in radians, a straight line differs from the arc by less than float64 can tell. The same distance
from a half turn, no arc is preferred over another."""


def slerp(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """The tensor at ``weight`` between two of the same shape: 0 gives the first, 1 the second; float64.

    Each tensor counts as one vector. Its direction follows the arc and its norm the straight line between the two
    norms. Tensors that are zero, nearly parallel or nearly opposite are interpolated linearly instead.
    """
    a, b = first.double(), second.double()
    norm_a, norm_b = a.norm(), b.norm()
    if norm_a == 0 or norm_b == 0:
        return torch.lerp(a, b, weight)
    u, v = a / norm_a, b / norm_b
    # More exact for small angles than the arc cosine (Kahan, "How Futile are Mindless Assessments of Roundoff").
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())
    if angle < _LEAST_ANGLE or torch.pi - angle < _LEAST_ANGLE:
        return torch.lerp(a, b, weight)
    direction: Tensor = (torch.sin((1 - weight) * angle) * u + torch.sin(weight * angle) * v) / torch.sin(angle)
    return direction * torch.lerp(norm_a, norm_b, weight)


def slerp_all(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of the same shape merged one after the other, each with the same weight in the end; float64."""
    merged = tensors[0].double()
    for count, tensor in enumerate(tensors[1:], start=2):
        merged = slerp(merged, tensor, 1 / count)
    return merged


def average(tensors: Sequence[Tensor]) -> Tensor:
    """The plain mean of tensors of the same shape; float64."""
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0)
