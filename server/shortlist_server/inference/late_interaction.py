"""Late interaction: scores a passage by the best match of each query token among the passage's token vectors.

A query token's weight is the length of its vector, which the embedder chooses.

Storing and scoring share one packed format: a header (format version, width, rows), one float32 scale per row, then the
rows as int8. A row is the mean of four neighbouring tokens, scaled to norm 1; its scale restores that length exactly
after quantisation. A passage of 128 tokens at width 384 takes 32 rows, 12.4 kB. Pure functions and a stateless engine;
any thread.

MaxSim: Khattab and Zaharia, "ColBERT" (2020); pooling of neighbours: Clavié et al., "Reducing the Footprint of
Multi-Vector Retrieval with Minimal Performance Impact via Token Pooling" (2024).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import LATE_INTERACTION
from shortlist_server.errors import DataCorrupted, InferenceFailed
from shortlist_server.inference.base import (
    MayContinue,
    RenderedCandidate,
    RerankCandidate,
    RerankerInfo,
    RerankQuery,
    RerankScores,
)
from shortlist_server.inference.products import products

Floats = NDArray[np.float32]

POOLED_TOKENS = 4
_FORMAT = 1
_HEADER = struct.Struct("<HHI")
_SLICE = 256
_SECONDS_PER_SLICE = 0.02


def pack(token_vectors: Floats) -> bytes:
    """Packs token vectors for storage.

    Args:
        token_vectors: shape (tokens, width), rows of norm 1; at least one.

    Raises:
        InferenceFailed: they are not finite.
    """
    if not np.isfinite(token_vectors).all():
        raise InferenceFailed("the model made token vectors that are not finite: another text may work")
    tokens, width = token_vectors.shape
    starts = np.arange(0, tokens, POOLED_TOKENS)
    pooled = np.add.reduceat(token_vectors, starts, axis=0)
    largest = np.abs(pooled).max(axis=1, keepdims=True)
    rows = np.rint(pooled * (127.0 / np.maximum(largest, 1e-12))).astype(np.int8)
    norms = np.linalg.norm(rows.astype(np.float32), axis=1)
    scales = (1.0 / np.maximum(norms, 1.0)).astype("<f4")
    header: bytes = _HEADER.pack(_FORMAT, width, len(rows))
    return b"".join((header, scales.tobytes(), rows.tobytes()))


def unpack(packed: bytes) -> Floats:
    """The stored rows: shape (rows, width), float32, norm 1. Raises ``DataCorrupted``."""
    scales, rows = _parts(packed)
    return np.asarray(rows.astype(np.float32) * scales[:, None], dtype=np.float32)


def maxsim(query_tokens: Floats, packed: Sequence[bytes]) -> Floats:
    """For each packed passage: the weighted mean, over query tokens, of the largest cosine with any of its rows.

    Args:
        query_tokens: shape (tokens, width); the length of a row is its weight.

    Returns:
        Shape (len(packed),), float32, -1 to 1.

    Raises:
        DataCorrupted: a passage is damaged.
        InferenceFailed: a passage has vectors of another width, which another model made.
    """
    if not packed:
        return np.empty(0, dtype=np.float32)
    parts = [_parts(item) for item in packed]
    width = query_tokens.shape[1]
    if any(rows.shape[1] != width for _, rows in parts):
        raise InferenceFailed(
            "the passages' token vectors have another width than the query's: ingest the documents again"
        )
    lengths = np.array([len(rows) for _, rows in parts])
    rows = np.concatenate([rows for _, rows in parts]).astype(np.float32)
    similarity = products(query_tokens, rows)
    similarity *= np.concatenate([scales for scales, _ in parts])
    starts = np.concatenate([[0], np.cumsum(lengths[:-1])])
    best = np.maximum.reduceat(similarity, starts, axis=1)
    weights = np.linalg.norm(query_tokens, axis=1).sum()
    return np.asarray(best.sum(axis=0) / max(weights, 1e-12), dtype=np.float32)


def _parts(packed: bytes) -> tuple[Floats, NDArray[np.int8]]:
    if len(packed) >= _HEADER.size:
        version, width, count = _HEADER.unpack_from(packed)
        if version == _FORMAT and count > 0 and len(packed) == _HEADER.size + count * (4 + width):
            scales = np.frombuffer(packed, dtype="<f4", count=count, offset=_HEADER.size)
            rows = np.frombuffer(packed, dtype=np.int8, offset=_HEADER.size + 4 * count).reshape(count, width)
            return scales, rows
    raise DataCorrupted("packed token vectors are damaged or of an unknown version")


class LateInteraction:
    """The reranker over the embedder's own token vectors. A candidate without token vectors scores NaN."""

    info = RerankerInfo(
        name=LATE_INTERACTION,
        revision=f"maxsim-{_FORMAT}-p{POOLED_TOKENS}",
        uses_token_vectors=True,
        takes_instruction=False,
        default_weight=0.4,
        default_depth=50,
    )

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        """See ``Reranker.score``."""
        if query.token_vectors is None:
            raise InferenceFailed("the query has no token vectors, because its embedder gives none")
        scores: list[Floats] = []
        done = 0
        while done < len(candidates) and may_continue(_SECONDS_PER_SLICE):
            part = candidates[done : done + _SLICE]
            packed = [candidate.token_vectors for candidate in part]
            known = np.array([item is not None for item in packed])
            values = np.full(len(part), np.nan, dtype=np.float32)
            values[known] = maxsim(query.token_vectors, [item for item in packed if item is not None])
            scores.append(values)
            done += len(part)
        return RerankScores(
            scores=np.concatenate(scores) if scores else np.empty(0, dtype=np.float32),
            probabilities=None,
            truncated_tokens=np.zeros(done, dtype=np.int32),
            tokens=0,
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """See ``Reranker.render``. Gives the number of stored token vectors instead of a text."""
        packed = (candidate.token_vectors for candidate in candidates)
        return [RenderedCandidate(token_vectors=0 if one is None else len(_parts(one)[1])) for one in packed]
