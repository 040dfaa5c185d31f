"""Resolved filters are kept, advanced and dropped."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shortlist_server.storage.vectors import selection
from shortlist_server.storage.vectors.selection import KeySelection, SelectionCache


class Documents:
    """Keys that pass by sequence of their commit; counts how often all of them are read."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.full_reads = 0

    def read(self, after: int) -> NDArray[np.int64]:
        self.full_reads += after == 0
        return np.array(sorted(key for key, sequence in self.rows.items() if sequence > after), dtype=np.int64)


def test_a_selection_is_advanced_rather_than_resolved_anew() -> None:
    documents, cache = Documents(), SelectionCache()
    documents.rows = {1: 1, 2: 2}
    assert cache.resolve("f", 2, documents.read).keys.tolist() == [1, 2]
    del documents.rows[1]
    documents.rows[3] = 3
    cache.forget(3, [1])
    assert cache.resolve("f", 3, documents.read).keys.tolist() == [2, 3]
    assert documents.full_reads == 1


def test_a_selection_at_the_present_sequence_is_the_same_object() -> None:
    documents, cache = Documents(), SelectionCache()
    documents.rows = {1: 1}
    assert cache.resolve("f", 1, documents.read) is cache.resolve("f", 1, documents.read)


def test_a_selection_older_than_the_log_of_deletions_is_resolved_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_LOGGED_DELETIONS", 3)
    documents, cache = Documents(), SelectionCache()
    documents.rows = {key: key for key in range(1, 11)}
    cache.resolve("f", 10, documents.read)
    for key in range(1, 6):
        del documents.rows[key]
        cache.forget(10 + key, [key])
    assert cache.resolve("f", 15, documents.read).keys.tolist() == [6, 7, 8, 9, 10]
    assert documents.full_reads == 2


def test_the_least_recently_used_selections_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_KEPT_KEYS", 25)
    documents, cache = Documents(), SelectionCache()
    documents.rows = {key: key for key in range(1, 11)}
    kept = {name: cache.resolve(name, 10, documents.read) for name in "ab"}
    assert cache.resolve("a", 10, documents.read) is kept["a"]
    cache.resolve("c", 10, documents.read)
    assert cache.resolve("a", 10, documents.read) is kept["a"]
    assert cache.resolve("b", 10, documents.read) is not kept["b"]


def test_membership_of_keys_beyond_the_largest_is_false() -> None:
    chosen = KeySelection(5, np.array([2, 4], dtype=np.int64))
    assert chosen.contains(np.array([1, 2, 3, 4, 5, 1000])).tolist() == [False, True, False, True, False, False]
    nothing = KeySelection(5, np.empty(0, dtype=np.int64))
    assert nothing.contains(np.array([0, 1, 2])).tolist() == [False, False, False]
