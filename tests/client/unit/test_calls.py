"""Arguments that no request can hold."""

from collections.abc import Callable
from typing import Any

import pytest

from shortlist import (
    Candidates,
    Chunking,
    CollectionConfig,
    Fusion,
    InvalidArgument,
    Rerank,
    RerankStage,
    SearchDefaults,
)
from shortlist import _admin_calls as admin
from shortlist import _collection_calls as collection_calls
from shortlist import _dead_letter_calls as dead_letters
from shortlist import _document_calls as document_calls
from shortlist import _search_calls as search_calls


def update(search_defaults: SearchDefaults) -> Any:
    return collection_calls.update_collection("books", search_defaults, (), "")


def search(**options: Any) -> Any:
    return search_calls.search(search_calls.SearchQuery(**{"collection": "books", "text": "fox", **options}))


def create(config: CollectionConfig) -> Any:
    return collection_calls.create_collection("books", config)


INT32: list[tuple[str, Callable[[Any], Any]]] = [
    ("limit", lambda value: search(limit=value)),
    ("offset", lambda value: search(offset=value)),
    ("candidates.dense", lambda value: search(candidates=Candidates(dense=value))),
    ("candidates.lexical", lambda value: search(candidates=Candidates(lexical=value))),
    ("candidates.ef", lambda value: search(candidates=Candidates(ef=value))),
    ("fusion.rrf_k", lambda value: search(fusion=Fusion(rrf_k=value))),
    ("rerank.depth", lambda value: search(rerank=Rerank(depth=value))),
    ("rerank.depth", lambda value: update(SearchDefaults(rerank=Rerank(depth=value)))),
    ("rerank.stages[0].depth", lambda value: search(rerank=[RerankStage(depth=value)])),
    ("config.dimension", lambda value: create(CollectionConfig(dimension=value))),
    ("config.chunking.max_tokens", lambda value: create(CollectionConfig(chunking=Chunking(max_tokens=value)))),
    ("config.chunking.overlap_tokens", lambda value: create(CollectionConfig(chunking=Chunking(overlap_tokens=value)))),
    ("page_size", lambda value: collection_calls.list_collections(value, "")),
    ("page_size", lambda value: document_calls.list_documents("books", None, None, value, "")),
    ("page_size", lambda value: admin.list_backups(value, "")),
    (
        "page_size",
        lambda value: dead_letters.list_dead_letters("books", include_document=False, page_size=value, page_token=""),
    ),
    ("sample", lambda value: admin.verify("books", sample=value, repair=False, accept_loss=False)),
    ("qrels", lambda value: admin.evaluate("books", {"q": "t"}, {"q": {"d": value}}, [], include_queries=False)),
]


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**63, pytest.param(10**5000, id="huge"), 1.0, "1", True])
@pytest.mark.parametrize(("field", "call"), INT32)
def test_a_number_that_no_request_can_hold_is_refused_with_its_field(
    field: str, call: Callable[[Any], Any], value: Any
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        call(value)
    assert caught.value.field == field


@pytest.mark.parametrize(("field", "call"), INT32)
def test_what_a_request_can_hold_is_the_servers_to_judge(field: str, call: Callable[[Any], Any]) -> None:
    for value in (2**31 - 1, -(2**31)):
        call(value)


def test_a_sequence_may_be_larger() -> None:
    assert search(min_sequence=2**63 - 1).request.min_sequence == 2**63 - 1
    with pytest.raises(InvalidArgument) as caught:
        search(min_sequence=2**63)
    assert caught.value.field == "min_sequence"


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("collection", lambda text: search(collection=text)),
        ("collection", lambda text: document_calls.count(text, None)),
        ("collection", lambda text: dead_letters.retry_dead_letters(text, [1])),
        ("collection", lambda text: collection_calls.create_collection(text, None)),
        ("name", lambda text: admin.backup(text, [])),
        ("instruction", lambda text: search(instruction=text)),
        ("rerank.model", lambda text: search(rerank=Rerank(model=text))),
        ("rerank.stages[0].instruction", lambda text: search(rerank=[RerankStage(instruction=text)])),
        ("config.filterable_fields", lambda text: create(CollectionConfig(filterable_fields=(text,)))),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_field(field: str, call: Callable[[str], Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        call("a\ud800")
    assert caught.value.field == field
