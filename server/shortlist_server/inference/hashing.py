"""An embedder without weights: texts that share words, or parts of words, have similar vectors.

Features are hashed into a fixed number of dimensions (the "hashing trick", Weinberger et al. 2009). Deterministic on
every machine. It serves where no model can be installed, and makes tests fast. It knows nothing of meaning. Any thread.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.inference import passages
from shortlist_server.inference.base import CutText, EmbedderInfo, PassageEmbedding, QueryEmbedding, QueryText
from shortlist_server.inference.late_interaction import pack
from shortlist_server.inference.tokenization import TokenSpans

Floats = NDArray[np.float32]

HASHING = "hashing"
"""The name of this embedder."""

DEFAULT_DIMENSION = 256
FIRST_VARIANT = 1
_WINDOW_TOKENS = 4096
_GRAM = 3
_GRAM_WEIGHT = 1.0
_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"\w+")
_MAX_WORD = 64


class HashingEmbedder:
    """Embeds texts as sums of hashed words and character trigrams; a token is a word or a punctuation mark.

    Variants hash differently: each is another revision, with vectors that mean nothing to the others.
    """

    def __init__(self, name: str, dimension: int, variant: int = FIRST_VARIANT) -> None:
        self.info = EmbedderInfo(
            name=name,
            revision=f"hashing-{variant}-{dimension}",
            dimension=dimension,
            min_dimension=dimension,
            max_tokens=_WINDOW_TOKENS,
            default_chunking=Chunking(max_tokens=128, overlap_tokens=16),
            token_vectors=True,
            takes_instruction=False,
        )
        self.max_tokens = _WINDOW_TOKENS
        self.batches_queries = False
        self.batch_tokens = 0
        self._dimension = dimension
        self._seed = variant - FIRST_VARIANT
        self._word_vector = lru_cache(maxsize=8192)(self._make_word_vector)

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """See ``EmbedderService.cut``."""
        return passages.cut(title, text, chunking, overflow, self)

    def spans(self, text: str) -> TokenSpans:
        """Where the words and punctuation marks of the text lie."""
        found = np.array([match.span() for match in _TOKEN.finditer(text)], dtype=np.int64).reshape(-1, 2)
        return TokenSpans(starts=found[:, 0], ends=found[:, 1], word_starts=np.ones(len(found), dtype=np.bool_))

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many words and punctuation marks each text has."""
        return [sum(1 for _ in _TOKEN.finditer(text)) for text in texts]

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        """See ``Embedder.embed_queries``."""
        split = [self._split(query.text) for query in queries]
        return [
            QueryEmbedding(
                vector=self._sum(words), token_vectors=self._rows(words), tokens=tokens, truncated_tokens=truncated
            )
            for words, tokens, truncated in split
        ]

    def render_query(self, query: QueryText) -> str:
        """See ``Embedder.render_query``. This embedder has no prompts and no special tokens."""
        spans = self.spans(query.text)
        return query.text if len(spans) <= _WINDOW_TOKENS else query.text[: spans.ends[_WINDOW_TOKENS - 1]]

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding]:
        """See ``Embedder.embed_passages``."""
        split = [self._split(content) for content in contents]
        return [
            PassageEmbedding(
                vector=self._sum(words),
                token_vectors=pack(self._rows(words)) if token_vectors else None,
                tokens=tokens,
                truncated_tokens=truncated,
            )
            for words, tokens, truncated in split
        ]

    def _split(self, text: str) -> tuple[list[str], int, int]:
        """The text's words within the window, and how many tokens are seen and cut off."""
        tokens = _TOKEN.findall(text)
        seen = tokens[:_WINDOW_TOKENS]
        words = [word[:_MAX_WORD].casefold() for word in seen if _WORD.match(word)]
        # A text without words gets the vector of the empty word, because every vector needs norm 1.
        return words or [""], len(seen), len(tokens) - len(seen)

    def _rows(self, words: Sequence[str]) -> Floats:
        return np.stack([self._word_vector(word) for word in words])

    def _sum(self, words: Sequence[str]) -> Floats:
        counts = Counter(words)
        # Short words are mostly grammar. Without document frequencies, a word's length is the best weight available.
        weights = np.array([np.sqrt(n) * min(len(word), 6) or 1.0 for word, n in counts.items()], dtype=np.float32)
        total = weights @ self._rows(list(counts))
        norm = float(np.linalg.norm(total))
        return np.asarray(total / norm, dtype=np.float32) if norm > 1e-6 else self._word_vector("")

    def _make_word_vector(self, word: str) -> Floats:
        vector = np.zeros(self._dimension, dtype=np.float32)
        padded = f"<{word}>"
        grams = [padded[i : i + _GRAM] for i in range(len(padded) - _GRAM + 1)] if len(word) > _GRAM else []
        gram_weight = _GRAM_WEIGHT / np.sqrt(max(len(grams), 1))
        # The word itself sets four components, because two words rarely collide in all of them.
        features = [(f"{word}\0{i}", 0.5) for i in range(4)] + [(f"#{gram}", gram_weight) for gram in grams]
        for feature, weight in features:
            digest = zlib.crc32(feature.encode(), self._seed)
            vector[(digest >> 1) % self._dimension] += weight if digest & 1 else -weight
        norm = float(np.linalg.norm(vector))
        if norm < 1e-6:
            vector[zlib.crc32(word.encode(), self._seed) % self._dimension] = norm = 1.0
        vector /= norm
        vector.setflags(write=False)
        return vector
