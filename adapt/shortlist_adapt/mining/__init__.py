"""Hard negatives for training: documents that the served collection ranks high and that do not answer the query."""

from __future__ import annotations
