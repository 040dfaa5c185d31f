"""An embedder over a transformer's hidden states: tokenise, run, pool, normalise.

Texts are padded on the right. For a decoder that is equal to padding on the left: under causal attention no token sees
what follows it, so padding behind the text changes nothing, and positions count from the text's first token.
Thread-safe as far as its forward pass is: queries and passages may be embedded at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.inference import passages
from shortlist_server.inference.base import CutText, EmbedderInfo, PassageEmbedding, QueryEmbedding, QueryText
from shortlist_server.inference.late_interaction import pack
from shortlist_server.inference.tokenization import TextTokenizer, TokenIds, TokenSpans

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Forward(Protocol):
    """One pass through a transformer: in torch or in ONNX Runtime."""

    def run(self, ids: Ids, mask: Ids, segments: Ids | None = None) -> Floats:
        """The last hidden states, shape (texts, tokens, width), or a classifier's logits, shape (texts, labels).

        Args:
            ids, mask, segments: shape (texts, tokens); segments tell the two texts of a pair apart.
        """


@runtime_checkable
class PooledForward(Protocol):
    """A pass that can pool where it runs, so that the hidden states need not leave the GPU."""

    def run_pooled(self, ids: Ids, mask: Ids, pooling: str) -> Floats:
        """What ``pool`` gives of the hidden states that ``Forward.run`` gives, shape (texts, width)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What stands in front of texts. With ``instruction_tail`` a query's is ``Instruct: {instruction}{tail}``."""

    query: str
    passage: str
    instruction_tail: str = ""

    def for_query(self, instruction: str) -> str:
        """The prompt of a query; ``instruction`` "" for the model's default. Ignored by models that take none."""
        if instruction and self.instruction_tail:
            return f"Instruct: {instruction}{self.instruction_tail}"
        return self.query


class TransformerEmbedder:
    """An embedder of one model; ``query_forward`` and ``passage_forward`` may be the same."""

    def __init__(
        self,
        info: EmbedderInfo,
        tokenizer: TextTokenizer,
        *,
        query_forward: Forward,
        passage_forward: Forward,
        pooling: str,
        prompts: Prompts,
        batches_queries: bool,
        batch_tokens: int = 0,
    ) -> None:
        self.info = info
        self.batch_tokens = batch_tokens
        self.max_tokens = info.max_tokens
        self.batches_queries = batches_queries
        self._tokenizer = tokenizer
        self._query_forward = query_forward
        self._passage_forward = passage_forward
        self._pooling = pooling
        self._prompts = prompts

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """See ``EmbedderService.cut``."""
        return passages.cut(title, text, chunking, overflow, self)

    def spans(self, text: str) -> TokenSpans:
        """See ``PassageTokenizer.spans``."""
        return self._tokenizer.spans(text)

    def count(self, texts: Sequence[str]) -> list[int]:
        """See ``PassageTokenizer.count``."""
        return self._tokenizer.count(texts, self._prompts.passage)

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        """See ``Embedder.embed_queries``."""
        texts = [self._tokenizer.encode([q.text], self._prompts.for_query(q.instruction))[0] for q in queries]
        hidden, vectors = self._run(texts, self._query_forward, token_vectors=self.info.token_vectors)
        return [
            QueryEmbedding(
                vector=vectors[row],
                token_vectors=None if hidden is None else _weighted(hidden[row, : len(text.ids)][text.own]),
                tokens=len(text.ids),
                truncated_tokens=text.truncated_tokens,
            )
            for row, text in enumerate(texts)
        ]

    def render_query(self, query: QueryText) -> str:
        """See ``Embedder.render_query``."""
        return self._tokenizer.render(query.text, self._prompts.for_query(query.instruction))

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding]:
        """See ``Embedder.embed_passages``."""
        texts = self._tokenizer.encode(contents, self._prompts.passage)
        packing = token_vectors and self.info.token_vectors
        hidden, vectors = self._run(texts, self._passage_forward, token_vectors=packing)
        return [
            PassageEmbedding(
                vector=vectors[row],
                token_vectors=None if hidden is None else pack(normalize(hidden[row, : len(text.ids)])),
                tokens=len(text.ids),
                truncated_tokens=text.truncated_tokens,
            )
            for row, text in enumerate(texts)
        ]

    def _run(self, texts: Sequence[TokenIds], forward: Forward, *, token_vectors: bool) -> tuple[Floats | None, Floats]:
        """Hidden states, shape (texts, tokens, width), where wanted, and vectors, shape (texts, dimension)."""
        ids, mask = pad([text.ids for text in texts])
        if not token_vectors and isinstance(forward, PooledForward):
            return None, normalize(forward.run_pooled(ids, mask, self._pooling))
        hidden = forward.run(ids, mask)
        if not token_vectors:
            return None, normalize(pool(hidden, mask, self._pooling))
        return hidden, normalize(pool(hidden, mask, self._pooling))


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
    # Not a matrix product: BLAS threads would wait for cores that the other lane holds.
    summed = np.einsum("btw,bt->bw", hidden, weights)
    return np.asarray(summed / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9), dtype=np.float32)


def _weighted(rows: Floats) -> Floats:
    """Rows scaled to the square of their length, which is a token's weight in late interaction.

    Encoders give words that say little short vectors; the squared length of a word's vector estimates how much the word
    tells about its context (Oyama, Yokoi and Shimodaira, "Norm of Word Embedding Encodes Information Gain", 2023).
    """
    return np.asarray(rows * np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def normalize(rows: Floats) -> Floats:
    """Rows scaled to L2 norm 1. Shape (n, width)."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12), dtype=np.float32)
