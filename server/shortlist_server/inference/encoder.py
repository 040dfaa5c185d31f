"""An embedder over a model's hidden states: tokenise, run, pool, apply the head, normalise.

Texts are padded on the right. For a decoder that equals padding on the left: under causal attention no token sees what
follows it, and positions count from the text's first token. As thread-safe as its forward passes: queries and passages
may be embedded at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.inference import passages
from shortlist_server.inference.base import CutText, EmbedderInfo, PassageEmbedding, QueryEmbedding, QueryText
from shortlist_server.inference.head import Step, normalize
from shortlist_server.inference.late_interaction import pack
from shortlist_server.inference.pooling import Pooling
from shortlist_server.inference.prompts import Prompts
from shortlist_server.inference.tokenization import TextTokenizer, TokenIds, TokenSpans

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

_UNCHECKED = np.errstate(over="ignore", invalid="ignore")
"""Numbers that are not finite raise no warning here, because the callers check for them."""


class Forward(Protocol):
    """One pass through a transformer, in torch or in ONNX Runtime."""

    def run(self, ids: Ids, mask: Ids, segments: Ids | None = None) -> Floats:
        """The last hidden states, shape (texts, tokens, width), or a classifier's logits, shape (texts, labels).

        Args:
            ids, mask, segments: shape (texts, tokens); segments tell apart the two texts of a pair.
        """


@runtime_checkable
class PooledForward(Protocol):
    """A pass that can pool on its own device, which spares copying the hidden states from the GPU."""

    def run_pooled(self, ids: Ids, mask: Ids, pooling: str) -> Floats:
        """The same as ``Pooling.pool`` on the hidden states of ``Forward.run``, shape (texts, width)."""


class TransformerEmbedder:
    """An embedder over one model; ``query_forward`` and ``passage_forward`` may be the same."""

    def __init__(
        self,
        info: EmbedderInfo,
        tokenizer: TextTokenizer,
        *,
        query_forward: Forward,
        passage_forward: Forward,
        pooling: Pooling,
        head: Sequence[Step],
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
        self._head = head
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

    @_UNCHECKED
    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        """See ``Embedder.embed_queries``."""
        prompts = [self._prompts.for_query(query.instruction) for query in queries]
        texts = [
            self._tokenizer.encode([query.text], prompt)[0] for query, prompt in zip(queries, prompts, strict=True)
        ]
        hidden, vectors = self._run(texts, prompts, self._query_forward, token_vectors=self.info.token_vectors)
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

    @_UNCHECKED
    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding]:
        """See ``Embedder.embed_passages``."""
        texts = self._tokenizer.encode(contents, self._prompts.passage)
        packing = token_vectors and self.info.token_vectors
        prompts = [self._prompts.passage] * len(texts)
        hidden, vectors = self._run(texts, prompts, self._passage_forward, token_vectors=packing)
        return [
            PassageEmbedding(
                vector=vectors[row],
                token_vectors=None if hidden is None else pack(normalize(hidden[row, : len(text.ids)])),
                tokens=len(text.ids),
                truncated_tokens=text.truncated_tokens,
            )
            for row, text in enumerate(texts)
        ]

    def _run(
        self, texts: Sequence[TokenIds], prompts: Sequence[str], forward: Forward, *, token_vectors: bool
    ) -> tuple[Floats | None, Floats]:
        """Hidden states, shape (texts, tokens, width), if wanted; and vectors, shape (texts, dimension)."""
        ids, mask = pad([text.ids for text in texts])
        if not token_vectors and isinstance(forward, PooledForward) and self._pooling.is_plain:
            return None, self._vectors(forward.run_pooled(ids, mask, self._pooling.name))
        hidden = forward.run(ids, mask)
        rows = self._pooling.pool(hidden, mask, self._left_out(prompts))
        return hidden if token_vectors else None, self._vectors(rows)

    def _left_out(self, prompts: Sequence[str]) -> Sequence[int]:
        """How many tokens of each text pooling leaves out; empty if it leaves out none."""
        return [] if self._pooling.include_prompt else [self._tokenizer.prompt_tokens(one) for one in prompts]

    def _vectors(self, rows: Floats) -> Floats:
        """Vectors, shape (texts, dimension), of pooled rows, shape (texts, width)."""
        for step in self._head:
            rows = step.apply(rows)
        vectors = normalize(rows)
        # A text of unknown tokens alone gets a unit vector, because every vector needs norm 1.
        vectors[~vectors.any(axis=1), 0] = 1.0
        return vectors


def pad(sequences: Sequence[list[int]], pad_id: int = 0) -> tuple[Ids, Ids]:
    """Token ids padded on the right to the longest sequence, and the mask; each of shape (texts, tokens)."""
    length = max((1, *map(len, sequences)))
    ids = np.full((len(sequences), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(sequences), length), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def _weighted(rows: Floats) -> Floats:
    """Rows scaled to the square of their length, which is a token's weight in late interaction.

    Encoders give short vectors to words that say little. The squared length of a word's vector estimates how much the
    word tells about its context (Oyama, Yokoi and Shimodaira, "Norm of Word Embedding Encodes Information Gain", 2023).
    """
    return np.asarray(rows * np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
