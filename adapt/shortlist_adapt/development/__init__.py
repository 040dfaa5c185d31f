"""Figures on the development split: what training stops by and merging chooses by."""

from __future__ import annotations
