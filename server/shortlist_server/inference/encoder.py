"""An embedder over a transformer's hidden states: tokenise, run, pool, normalise.

Texts are padded on the right. For a decoder that is equal to padding on the left: under causal attention no token sees
what follows it, so padding behind the text changes nothing, and positions count from the text's first token.
Thread-safe as far as its backend is: queries and passages may be embedded at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.inference import passages
from shortlist_server.inference.base import CutText, Embedded, EmbedderInfo, QueryText
from shortlist_server.inference.tokenization import TextTokenizer, TokenIds, TokenSpans

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class EncoderBackend(Protocol):
    """Runs the transformer: torch or ONNX Runtime."""

    def hidden_states(self, ids: Ids, mask: Ids) -> Floats:
        """Last hidden states, shape (texts, tokens, width), for ids and mask of shape (texts, tokens)."""


class QueryPrompt(Protocol):
    """Makes the prompt in front of a query, given the request's instruction ("" for the default)."""

    def __call__(self, instruction: str, /) -> str:
        """The prompt."""


class TransformerEmbedder:
    """An embedder of one model; ``query_backend`` and ``passage_backend`` may be the same."""

    def __init__(
        self,
        info: EmbedderInfo,
        tokenizer: TextTokenizer,
        *,
        query_backend: EncoderBackend,
        passage_backend: EncoderBackend,
        pooling: str,
        query_prompt: QueryPrompt,
        passage_prompt: str,
    ) -> None:
        self.info = info
        self.max_tokens = info.max_tokens
        self._tokenizer = tokenizer
        self._query_backend = query_backend
        self._passage_backend = passage_backend
        self._pooling = pooling
        self._query_prompt = query_prompt
        self._passage_prompt = passage_prompt

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """See ``EmbedderService.cut``."""
        return passages.cut(title, text, chunking, overflow, self)

    def spans(self, text: str) -> TokenSpans:
        """See ``PassageTokenizer.spans``."""
        return self._tokenizer.spans(text)

    def count(self, texts: Sequence[str]) -> list[int]:
        """See ``PassageTokenizer.count``."""
        return self._tokenizer.count(texts, self._passage_prompt)

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[Embedded]:
        """See ``Embedder.embed_queries``."""
        encoded = [self._tokenizer.encode([q.text], self._query_prompt(q.instruction))[0] for q in queries]
        return self._embed(encoded, self._query_backend, token_vectors=self.info.token_vectors)

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[Embedded]:
        """See ``Embedder.embed_passages``."""
        encoded = self._tokenizer.encode(contents, self._passage_prompt)
        return self._embed(encoded, self._passage_backend, token_vectors=token_vectors and self.info.token_vectors)

    def _embed(self, texts: list[TokenIds], backend: EncoderBackend, *, token_vectors: bool) -> list[Embedded]:
        ids, mask = pad([text.ids for text in texts])
        hidden = backend.hidden_states(ids, mask)
        vectors = normalize(pool(hidden, mask, self._pooling))
        return [
            Embedded(
                vector=vectors[row],
                token_vectors=normalize(hidden[row, : len(text.ids)]) if token_vectors else None,
                tokens=len(text.ids),
                truncated_tokens=text.truncated_tokens,
            )
            for row, text in enumerate(texts)
        ]


def pad(sequences: Sequence[list[int]], pad_id: int = 0) -> tuple[Ids, Ids]:
    """Token ids padded on the right to the longest, and the mask, each of shape (texts, tokens)."""
    length = max((1, *map(len, sequences)))
    ids = np.full((len(sequences), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), length), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def pool(hidden: Floats, mask: Ids, method: str) -> Floats:
    """One vector a text, shape (texts, width): "mean" over its tokens, the first ("cls") or the last ("lasttoken")."""
    if method == "cls":
        return hidden[:, 0]
    if method == "lasttoken":
        last = np.maximum(mask.sum(axis=1) - 1, 0)
        return np.asarray(hidden[np.arange(len(hidden)), last])
    weights = mask.astype(np.float32)
    summed = np.einsum("btw,bt->bw", hidden, weights, optimize=True)
    return np.asarray(summed / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), dtype=np.float32)


def normalize(rows: Floats) -> Floats:
    """Rows scaled to L2 norm 1. Shape (n, width)."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), dtype=np.float32)
