"""Both clients and what an ingest could not take: it is listed, retried and forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shortlist
from shortlist import AckStatus, CollectionConfig, Document
from shortlist_server.testing import server

BAD = [
    Document(id="long", title="A title", text="word " * 50, metadata={"year": 2001}),
    Document(id="flat", vector=[1.0, 2.0, 3.5]),
    Document(id="longer", text="word " * 60),
]


async def make(client: Any) -> None:
    """The collection "texts" with one document, and three dead letters."""
    await client.create_collection("texts")
    run = client.ingest("texts", [Document(id="good", text="a text"), *BAD], stream="s")
    assert [ack.id async for ack in run if not ack.ok] == ["long", "flat", "longer"]


async def test_failures_are_listed_with_their_reason_and_their_document(connect: Any, tmp_path: Path) -> None:
    with server(tmp_path, max_document_bytes=100) as running:
        client = connect(running.target)
        await make(client)
        long, flat, longer = [one async for one in client.list_dead_letters("texts", include_document=True)]
        assert (long.id, long.stream, long.position, long.retriable) == ("long", "s", 2, True)
        assert isinstance(long.error, shortlist.DocumentTooLarge)
        assert long.time.utcoffset() is not None
        assert long.document == BAD[0]
        assert isinstance(flat.error, shortlist.InvalidVector)
        assert flat.document.vector == (1.0, 2.0, 3.5)
        assert long.number < flat.number < longer.number
        pages = [page async for page in client.list_dead_letters("texts", page_size=2).pages()]
        assert [[one.id for one in page] for page in pages] == [["long", "flat"], ["longer"]]
        assert pages[0][0].document is None


async def test_a_retry_takes_what_can_be_taken_now_and_keeps_the_rest(connect: Any, tmp_path: Path) -> None:
    with server(tmp_path, max_document_bytes=100) as small:
        await make(connect(small.target))
    with server(tmp_path) as large:
        client = connect(large.target)
        numbers = [one.number async for one in client.list_dead_letters("texts")]
        (first,) = await client.retry_dead_letters("texts", numbers[:1])
        assert (first.index, first.id, first.status) == (numbers[0], "long", AckStatus.DURABLE)
        again = await client.retry_dead_letters("texts")
        assert [(ack.index, ack.id, ack.ok) for ack in again] == [
            (numbers[1], "flat", False),
            (numbers[2], "longer", True),
        ]
        assert await client.count("texts") == 3
        (left,) = [one async for one in client.list_dead_letters("texts")]
        assert left.id == "flat"


async def test_more_than_a_page_is_retried_once_though_all_fails_again(client: Any, collection: str) -> None:
    bad = (Document(id=f"bad{number}", vector=[1.0]) for number in range(1_050))
    assert len([ack async for ack in client.ingest(collection, bad) if not ack.ok]) == 1_050
    acks = await client.retry_dead_letters(collection)
    assert {ack.id for ack in acks} == {f"bad{number}" for number in range(1_050)}
    assert not any(ack.ok for ack in acks)
    assert await client.delete_dead_letters(collection) == 1_050


async def test_what_is_named_is_forgotten_and_nothing_else(client: Any, collection: str) -> None:
    bad = [Document(id=f"bad{number}", vector=[1.0]) for number in range(3)]
    assert not [ack async for ack in client.ingest(collection, bad) if ack.ok]
    numbers = [one.number async for one in client.list_dead_letters(collection)]
    assert await client.delete_dead_letters(collection, []) == 0
    assert await client.retry_dead_letters(collection, []) == []
    assert await client.delete_dead_letters(collection, [numbers[0], 10**9]) == 1
    assert [one.number async for one in client.list_dead_letters(collection)] == numbers[1:]
    assert await client.delete_dead_letters(collection) == 2
    assert [one async for one in client.list_dead_letters(collection)] == []


@pytest.mark.parametrize("numbers", [["1"], [-1], [1.5], [True], 3])
async def test_what_is_no_number_is_refused(client: Any, collection: str, numbers: Any) -> None:
    for method in (client.retry_dead_letters, client.delete_dead_letters):
        with pytest.raises(shortlist.InvalidArgument) as caught:
            await method(collection, numbers)
        assert caught.value.field == "numbers"


async def test_a_collection_that_is_not_there_is_an_error(client: Any) -> None:
    for call in (client.retry_dead_letters("nowhere"), client.delete_dead_letters("nowhere", [1])):
        with pytest.raises(shortlist.CollectionNotFound):
            await call
    with pytest.raises(shortlist.CollectionNotFound):
        [one async for one in client.list_dead_letters("nowhere")]


async def test_a_collection_without_an_embedder_takes_vectors_of_its_dimension(client: Any) -> None:
    await client.create_collection("own-vectors", CollectionConfig(embedder="none", dimension=2))
    try:
        ingested = client.ingest("own-vectors", [Document(id="a", vector=[3, 4]), Document(id="b", vector=[0.0, 0])])
        assert [ack.ok async for ack in ingested] == [True, False]
        (kept,) = [one async for one in client.list_dead_letters("own-vectors", include_document=True)]
        assert kept.document.vector == (0.0, 0.0)
    finally:
        await client.delete_collection("own-vectors")
