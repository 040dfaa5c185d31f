"""The settings of a collection: search defaults, and values of ``ef`` that the server raised."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from shortlist_server.domain import (
    SearchDefaults,
)
from shortlist_server.storage.collection import EmbeddedCollection
from shortlist_server.storage.rows.write_transaction import WriteTransaction
from shortlist_server.storage.rows.writer import Task
from shortlist_server.storage.store import EmbeddedStore
from shortlist_server.storage.vectors.search import DEFAULT_EF

from .conftest import OpenStore, opened


def test_search_defaults_are_replaced_durably(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore
) -> None:
    collection.update_search_defaults(SearchDefaults(rerank=False, rrf_k=7))
    assert collection.config.search_defaults.rrf_k == 7
    store.close()
    assert open_store().open("papers").config == collection.config


def test_search_defaults_are_replaced_where_they_are_as_expected(collection: EmbeddedCollection) -> None:
    first = SearchDefaults(rrf_k=7)
    assert collection.update_search_defaults(first, expected=SearchDefaults())
    assert not collection.update_search_defaults(SearchDefaults(rrf_k=8), expected=SearchDefaults())
    assert collection.config.search_defaults == first
    assert collection.update_search_defaults(SearchDefaults(rrf_k=9), expected=first)
    assert collection.config.search_defaults.rrf_k == 9


def test_a_raised_ef_outlives_a_restart_and_what_concerns_other_settings(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore
) -> None:
    collection.update_search_defaults(SearchDefaults(ef=64, recall_target=0.9))
    collection.raise_ef(256, filtered=True, under=collection.config.search_defaults, generation=1)
    collection.update_search_defaults(SearchDefaults(ef=64, recall_target=0.9, rerank=False))
    store.close()
    again = open_store().open("papers")
    assert (again.ef(filtered=False), again.ef(filtered=True)) == (64, 256)
    assert again.config.search_defaults.ef == 64


@pytest.mark.parametrize("change", [SearchDefaults(ef=80), SearchDefaults(recall_target=0.0)])
def test_another_preset_or_target_undoes_a_raised_ef_durably(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore, change: SearchDefaults
) -> None:
    assert collection.ef(filtered=False) == DEFAULT_EF
    collection.raise_ef(512, filtered=False, under=SearchDefaults(), generation=1)
    collection.raise_ef(256, filtered=True, under=SearchDefaults(), generation=1)
    collection.update_search_defaults(change)
    expected = change.ef or DEFAULT_EF
    assert (collection.ef(filtered=False), collection.ef(filtered=True)) == (expected, expected)
    store.close()
    assert open_store().open("papers").ef(filtered=False) == expected


def in_one_commit(collection: EmbeddedCollection, *calls: Callable[[], object]) -> None:
    """Makes calls from threads of their own while the writer is held up, so that it takes them all together."""
    busy, held = threading.Event(), threading.Event()

    def hold(_: WriteTransaction) -> None:
        busy.set()
        held.wait(30)

    collection.submit(Task(hold, lambda _: None))
    assert busy.wait(30)
    with ThreadPoolExecutor(len(calls)) as threads:
        done = [threads.submit(call) for call in calls]
        until = time.monotonic() + 30
        while opened(collection).writer.queued < len(calls):
            assert time.monotonic() < until
            time.sleep(0.001)
        held.set()
        for one in done:
            one.result(30)


def test_changes_of_settings_in_one_commit_do_not_undo_each_other(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore
) -> None:
    in_one_commit(
        collection,
        lambda: collection.raise_ef(256, filtered=True, under=SearchDefaults(), generation=1),
        lambda: collection.update_search_defaults(SearchDefaults(rrf_k=7)),
        lambda: collection.raise_ef(512, filtered=False, under=SearchDefaults(), generation=1),
    )
    shown = collection.ef(filtered=False), collection.ef(filtered=True), collection.config.search_defaults.rrf_k
    assert shown == (512, 256, 7)
    store.close()
    again = open_store().open("papers")
    assert (again.ef(filtered=False), again.ef(filtered=True), again.config.search_defaults.rrf_k) == shown


def test_a_raise_for_a_preset_that_has_changed_comes_to_nothing(
    collection: EmbeddedCollection, store: EmbeddedStore, open_store: OpenStore
) -> None:
    in_one_commit(
        collection,
        lambda: collection.update_search_defaults(SearchDefaults(ef=64)),
        lambda: collection.raise_ef(256, filtered=False, under=SearchDefaults(), generation=1),
    )
    collection.raise_ef(256, filtered=True, under=SearchDefaults(ef=64, recall_target=0.9), generation=1)
    assert (collection.ef(filtered=False), collection.ef(filtered=True)) == (64, 64)
    store.close()
    assert open_store().open("papers").ef(filtered=False) == 64
