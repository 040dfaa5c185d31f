"""The cache of query embeddings."""

from __future__ import annotations

import numpy as np

from shortlist_server.inference.base import QueryEmbedding
from shortlist_server.inference.query_cache import QueryCache, QueryKey


def embedding() -> QueryEmbedding:
    return QueryEmbedding(vector=np.ones(100, dtype=np.float32), token_vectors=None, tokens=1, truncated_tokens=0)


def test_the_least_recently_used_goes_first() -> None:
    cache = QueryCache(max_bytes=2000)
    first, second, third = (QueryKey("r", "", text, 100) for text in "abc")
    cache.put(first, embedding())
    cache.put(second, embedding())
    assert cache.get(first) is not None
    cache.put(third, embedding())
    assert cache.get(second) is None
    assert cache.get(first) is not None
    assert cache.get(third) is not None


def test_revision_instruction_text_and_dimension_tell_entries_apart() -> None:
    cache = QueryCache()
    cache.put(QueryKey("r", "i", "t", 100), embedding())
    for other in (QueryKey("R", "i", "t", 100), QueryKey("r", "I", "t", 100), QueryKey("r", "i", "T", 100)):
        assert cache.get(other) is None
    assert cache.get(QueryKey("r", "i", "t", 50)) is None


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = QueryCache(max_bytes=100)
    cache.put(QueryKey("r", "", "t", 100), embedding())
    assert cache.get(QueryKey("r", "", "t", 100)) is None
