"""Training: the losses, and the steps that tune an embedder and a reranker on the pairs of a run."""

from __future__ import annotations
