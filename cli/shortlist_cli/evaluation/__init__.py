"""Measuring how good and how fast the searches of a collection are: what ``eval`` and ``tune-search`` share."""
