"""Updating a collection: which settings change, and what happens when two clients change them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from shortlist import (
    Candidates,
    Client,
    Collection,
    CollectionConfig,
    Document,
    EtagMismatch,
    Fusion,
    InvalidArgument,
    Rerank,
    SearchDefaults,
)
from shortlist_server.testing import server

PRESETS = SearchDefaults(
    mode="lexical", candidates=Candidates(dense=7, ef=77), fusion=Fusion(rrf_k=9), rerank=Rerank(weight=0.5, depth=3)
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with server() as running, Client(running.target) as client:
        yield client


@pytest.fixture
def collection(client: Client) -> Iterator[Collection]:
    """A new collection with presets."""
    made = client.create_collection("notes", CollectionConfig(search_defaults=PRESETS))
    yield made
    client.delete_collection("notes")


def presets(collection: Collection) -> SearchDefaults:
    return collection.config.search_defaults


def test_without_a_mask_all_presets_are_replaced(client: Client, collection: Collection) -> None:
    for mask in ((), ("*",), ("search_defaults",)):
        assert presets(client.update_collection("notes", PRESETS)).rerank.depth == 3
        changed = presets(client.update_collection("notes", SearchDefaults(rerank=Rerank(depth=5)), update_mask=mask))
        assert (changed.rerank.depth, changed.rerank.weight, changed.mode) == (5, None, None)
        assert changed.candidates == Candidates()


def test_a_mask_names_what_changes_and_the_rest_stays(client: Client, collection: Collection) -> None:
    new = SearchDefaults(mode="dense", rerank=Rerank(weight=0.0, depth=8), fusion=Fusion(dense_weight=0.1))
    mask = ["search_defaults.rerank.weight", "search_defaults.mode", "search_defaults.fusion"]
    changed = presets(client.update_collection("notes", new, update_mask=mask))
    assert (changed.mode, changed.rerank.weight, changed.rerank.depth) == ("dense", 0.0, 3)
    assert (changed.fusion.dense_weight, changed.fusion.rrf_k) == (0.1, None)
    assert changed.candidates == PRESETS.candidates
    assert presets(client.get_collection("notes")) == changed


def test_a_setting_that_is_named_and_not_set_is_unset(client: Client, collection: Collection) -> None:
    mask = ["search_defaults.mode", "search_defaults.candidates.ef", "search_defaults.recall_target"]
    changed = presets(client.update_collection("notes", SearchDefaults(), update_mask=mask))
    assert (changed.mode, changed.candidates, changed.recall_target) == (None, Candidates(dense=7), None)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "name",
        "config",
        "search_defaults.",
        "search_defaults.rerank.wait",
        "search_defaults.mode.x",
        "search_defaults..mode",
        "search_defaults.*",
        "x" * 100_000,
    ],
)
def test_a_path_of_no_field_is_refused(client: Client, collection: Collection, path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.update_collection("notes", SearchDefaults(), update_mask=["search_defaults.mode", path])
    assert caught.value.field == "update_mask.paths[1]"
    assert client.get_collection("notes") == collection


def test_an_etag_changes_with_the_settings_and_with_nothing_else(client: Client, collection: Collection) -> None:
    assert collection.etag
    client.ingest("notes", [Document(id="a", text="an owl")]).finish()
    assert client.get_collection("notes").etag == collection.etag
    changed = client.update_collection("notes", SearchDefaults(), etag=collection.etag)
    assert changed.etag not in ("", collection.etag)
    assert client.get_collection("notes").etag == changed.etag
    assert client.update_collection("notes", PRESETS).etag == collection.etag


def test_an_update_that_rests_on_older_settings_is_aborted(client: Client, collection: Collection) -> None:
    changed = client.update_collection("notes", SearchDefaults(), etag=collection.etag)
    with pytest.raises(EtagMismatch, match="read them again") as caught:
        client.update_collection("notes", PRESETS, etag=collection.etag)
    assert (caught.value.code, caught.value.field) == (grpc.StatusCode.ABORTED, "etag")
    assert client.get_collection("notes").etag == changed.etag


def test_updates_at_once_of_different_settings_are_all_kept(client: Client, collection: Collection) -> None:
    changes = {
        "rerank.depth": SearchDefaults(rerank=Rerank(depth=11)),
        "rerank.weight": SearchDefaults(rerank=Rerank(weight=0.25)),
        "candidates.dense": SearchDefaults(candidates=Candidates(dense=12)),
        "candidates.lexical": SearchDefaults(candidates=Candidates(lexical=13)),
        "fusion.rrf_k": SearchDefaults(fusion=Fusion(rrf_k=14)),
    }
    with ThreadPoolExecutor(len(changes)) as threads:
        for done in [
            threads.submit(client.update_collection, "notes", new, update_mask=[f"search_defaults.{path}"])
            for path, new in changes.items()
        ]:
            done.result()
    now = presets(client.get_collection("notes"))
    assert (now.rerank.depth, now.rerank.weight) == (11, 0.25)
    assert (now.candidates.dense, now.candidates.lexical, now.candidates.ef) == (12, 13, 77)
    assert now.fusion.rrf_k == 14


def test_of_updates_at_once_with_one_etag_one_succeeds(client: Client, collection: Collection) -> None:
    def update(depth: int) -> int:
        try:
            client.update_collection("notes", SearchDefaults(rerank=Rerank(depth=depth)), etag=collection.etag)
        except EtagMismatch:
            return 0
        return depth

    with ThreadPoolExecutor(4) as threads:
        succeeded = [depth for depth in threads.map(update, range(21, 25)) if depth]
    assert [presets(client.get_collection("notes")).rerank.depth] == succeeded
