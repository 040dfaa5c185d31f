"""Merging: spherical interpolation between checkpoints, chosen on the development split."""

from __future__ import annotations
