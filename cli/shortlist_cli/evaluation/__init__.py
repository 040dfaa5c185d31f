"""Evaluation: how well and how fast a collection ranks. ``eval`` and ``tune-search`` are built from these modules."""
