"""Classic cross-encoders: a classifier reads query and passage together and gives a score.

With one label, the raw score is its logit and the probability the logit's sigmoid. With two labels, the raw score is
the difference of the logits and the probability the softmax of the last. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist_server.inference.base import (
    MayContinue,
    RenderedCandidate,
    RerankCandidate,
    RerankerInfo,
    RerankQuery,
    RerankScores,
)
from shortlist_server.inference.encoder import Forward, Ids, pad
from shortlist_server.inference.rerank_batches import Batches, Scored
from shortlist_server.inference.tokenization import open_for_texts, rendered

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairIds:
    """A pair of texts as the model reads it, and how many tokens of the passage were cut off."""

    ids: list[int]
    segments: list[int]
    truncated_tokens: int


class EncodesPairs(Protocol):
    """Encodes pairs of texts, joined by the tokenizer or in a template."""

    def encode(self, first: str, seconds: Sequence[str]) -> list[PairIds]:
        """Token ids of ``first`` with each of ``seconds``."""

    def render(self, first: str, seconds: Sequence[str]) -> list[str]:
        """The texts that the ids of ``encode`` stand for."""


class PairTokenizer:
    """Encodes pairs of texts. The first text takes at most half of the window; what does not fit is cut from the
    second.

    A text that contains ``[SEP]`` does not end there: special tokens are never read out of texts.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        self._tokenizer = open_for_texts(path)
        self._max_tokens = max_tokens
        self._special_tokens: int = self._tokenizer.num_special_tokens_to_add(is_pair=True)
        self.vocabulary_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, first: str, seconds: Sequence[str]) -> list[PairIds]:
        """Token ids of ``first`` with each of ``seconds``."""
        return [self._cut(encoding) for encoding in self._encodings(self._shorten(first), seconds)]

    def render(self, first: str, seconds: Sequence[str]) -> list[str]:
        """The texts that the ids of ``encode`` stand for, cut to fit, with special tokens by name."""
        query = self._shorten(first)
        encodings = self._encodings(query, seconds)
        return [rendered(one, (query, text), self._kept(one)) for one, text in zip(encodings, seconds, strict=True)]

    def _shorten(self, first: str) -> str:
        room = (self._max_tokens - self._special_tokens) // 2
        offsets = self._tokenizer.encode(first, add_special_tokens=False).offsets
        return first[: offsets[room][0]] if len(offsets) > room else first

    def _encodings(self, first: str, seconds: Sequence[str]) -> list[Any]:
        return list(self._tokenizer.encode_batch([(first, text) for text in seconds]))

    def _cut(self, encoding: Any) -> PairIds:
        ids, segments, excess = encoding.ids, encoding.type_ids, len(encoding.ids) - self._max_tokens
        if excess > 0:
            kept = self._kept(encoding)
            ids, segments = [ids[index] for index in kept], [segments[index] for index in kept]
        return PairIds(ids=ids, segments=segments, truncated_tokens=max(excess, 0))

    def _kept(self, encoding: Any) -> Sequence[int]:
        """Indexes of the tokens that are kept; what does not fit is dropped from the end of the second text."""
        total, excess = len(encoding.ids), len(encoding.ids) - self._max_tokens
        if excess <= 0:
            return range(total)
        end = max(i for i, sequence in enumerate(encoding.sequence_ids) if sequence == 1) + 1
        return [*range(end - excess), *range(end, total)]


class CrossEncoder:
    """A reranker over a sequence classifier with one or two labels."""

    def __init__(self, info: RerankerInfo, tokenizer: EncodesPairs, forward: Forward, batch_tokens: int = 0) -> None:
        """``batch_tokens``: see ``Batches``."""
        self.info = info
        self._tokenizer = tokenizer
        self._forward = forward
        self._batches = Batches(seconds_per_token=1e-5, batch_tokens=batch_tokens)

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        """See ``Reranker.score``."""
        pairs = self._tokenizer.encode(query.text, [candidate.text for candidate in candidates]) if candidates else []
        return self._batches.score(
            [len(pair.ids) for pair in pairs],
            [pair.truncated_tokens for pair in pairs],
            lambda rows: raw_and_probability(self._logits([pairs[row] for row in rows])),
            may_continue,
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """See ``Reranker.render``."""
        texts = self._tokenizer.render(query.text, [candidate.text for candidate in candidates])
        return [RenderedCandidate(text=text) for text in texts]

    def _logits(self, pairs: Sequence[PairIds]) -> Floats:
        ids, mask = pad([pair.ids for pair in pairs])
        segments: Ids = pad([pair.segments for pair in pairs])[0]
        return self._forward.run(ids, mask, segments)


def raw_and_probability(logits: Floats) -> Scored:
    """Raw scores and probabilities, each of shape (n,), from logits of shape (n, 1) or (n, 2)."""
    raw = logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
    return Scored(raw=raw.astype(np.float32), probability=sigmoid(raw))


def sigmoid(values: Floats) -> Floats:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)), dtype=np.float32)
