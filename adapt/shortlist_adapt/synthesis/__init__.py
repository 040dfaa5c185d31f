"""Queries for training: sources that make them from documents, judged queries, and what drops the bad ones."""

from __future__ import annotations
