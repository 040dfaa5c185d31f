"""The posting budget: what it leaves out, and that it says so."""

from __future__ import annotations

import pytest

from shortlist_server.domain import Equals
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.lexical.index import LexicalIndex, words
from shortlist_server.storage.vectors.selection import KeySelection

from .conftest import Maker, OpenStore, collection_config, opened


@pytest.fixture
def filled(open_store: OpenStore, maker: Maker) -> EmbeddedCollection:
    collection = open_store(maintain=False).create("c", collection_config())
    collection.commit(
        [
            maker.upsert(f"d{i}", text="common" + " rare" * (i % 50 == 0) + " middle" * (i % 5 == 0), n=i % 2)
            for i in range(500)
        ]
    ).result(30)
    return collection


def lexical_index(collection: EmbeddedCollection, budget: int) -> LexicalIndex:
    return LexicalIndex(opened(collection).pool, lambda: collection.snapshot.documents, budget)


def test_within_the_budget_every_word_counts(filled: EmbeddedCollection) -> None:
    found = lexical_index(filled, 10_000).search("common rare middle", 1000, None)
    assert len(found.keys) == 500
    assert not found.bounded


def test_over_the_budget_the_most_common_words_are_left_out(filled: EmbeddedCollection) -> None:
    found = lexical_index(filled, 150).search("common rare middle", 1000, None)
    assert found.bounded
    assert len(found.keys) == 100
    found = lexical_index(filled, 50).search("common rare middle", 1000, None)
    assert found.bounded
    assert len(found.keys) == 10


def test_words_that_do_not_occur_cost_nothing(filled: EmbeddedCollection) -> None:
    found = lexical_index(filled, 150).search("common rare absent middle", 1000, None)
    assert len(found.keys) == 100


def test_a_single_word_that_is_too_common_is_scored_on_the_newest_documents(filled: EmbeddedCollection) -> None:
    found = lexical_index(filled, 50).search("common", 1000, None)
    assert found.bounded
    assert sorted(found.keys.tolist()) == list(range(451, 501))


def test_a_bounded_search_within_a_filter_says_so_and_returns_only_what_passes(filled: EmbeddedCollection) -> None:
    selection = filled.select(Equals(("n",), 1.0))
    assert isinstance(selection, KeySelection)
    found = lexical_index(filled, 50).search("common", 1000, selection)
    assert found.bounded
    assert sorted(found.keys.tolist()) == list(range(452, 501, 2))


def test_the_best_of_a_bounded_search_are_those_of_the_full_one_that_have_the_rare_words(
    filled: EmbeddedCollection,
) -> None:
    full = lexical_index(filled, 10_000).search("rare middle", 10, None)
    bounded = lexical_index(filled, 120).search("common rare middle", 10, None)
    assert full.keys.tolist() == bounded.keys.tolist()


def test_words_are_distinct_lower_case_and_bounded() -> None:
    assert words("The the THE fox-hound's 3rd") == ["the", "fox", "hound", "s", "3rd"]
    assert len(words(" ".join(map(str, range(1000))))) == 256


def test_when_every_word_is_too_common_the_rarest_of_them_is_searched(filled: EmbeddedCollection) -> None:
    bounded = lexical_index(filled, 50)
    for _ in range(2):
        found = bounded.search("common middle", 1000, None)
        assert found.bounded
        assert len(found.keys) == 50
        assert all(key % 5 == 1 for key in found.keys.tolist())


def test_frequencies_are_counted_again_when_the_collection_has_grown(filled: EmbeddedCollection, maker: Maker) -> None:
    bounded = lexical_index(filled, 150)
    assert len(bounded.search("common rare", 1000, None).keys) == 10
    filled.commit([maker.upsert(f"more{i}", text="rare") for i in range(600)]).result(30)
    found = bounded.search("common rare", 1000, None)
    assert found.bounded
    assert len(found.keys) == 150
