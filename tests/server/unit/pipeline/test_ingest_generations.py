"""Writes while a collection has several generations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from shortlist_server.domain import Change, Commit, Document, NewGeneration, OverflowPolicy
from shortlist_server.errors import InvalidArgument, ModelMismatch, ModelNotFound, Unavailable
from shortlist_server.pipeline.operations import AckStatus
from shortlist_server.storage.base import GenerationChanged

from .conftest import Bench, Engine

DURABLE, FAILED, UNCHANGED = AckStatus.DURABLE, AckStatus.FAILED, AckStatus.UNCHANGED


def texts(count: int, first: int = 1) -> list[Document]:
    return [Document(id=f"d{i}", text=f"text number {i} of a few") for i in range(first, first + count)]


async def test_a_write_brings_each_generation_its_own_passages(bench: Bench) -> None:
    bench.create()
    number = (await bench.begin_generation()).number
    acks = await bench.ingest(*texts(3))
    assert [ack.status for ack in acks] == [DURABLE] * 3
    assert [ack.passages for ack in acks] == [1] * 3
    for serving, engine in ((1, bench.old), (number, bench.new)):
        (passage,) = bench.passages(serving, "d2")
        (expected,) = engine.embed_passages(["text number 2 of a few"], token_vectors=False)
        assert passage.vector is not None
        np.testing.assert_allclose(passage.vector, expected.vector, atol=1e-6)
    assert bench.generation(number).progress.complete


async def test_generations_with_the_same_passages_are_embedded_once(bench: Bench) -> None:
    bench.create()
    number = (await bench.begin_generation(embedder="old")).number
    chunking = bench.generation(1).config.chunking
    assert bench.generation(number).config.chunking != chunking
    await bench.ingest(*texts(1))
    assert len(bench.old.embedded) == 2
    await bench.reindexer.cancel("docs", number)
    again, _ = await bench.reindexer.start("docs", NewGeneration(), force=True)
    await bench.reindexer.build("docs", again.number)
    bench.old.embedded.clear()
    await bench.ingest(*texts(1, first=2))
    assert len(bench.old.embedded) == 1
    (mine,), (other) = bench.passages(1, "d2"), bench.passages(again.number, "d2")
    assert mine.vector is not None
    assert other[0].vector is not None
    np.testing.assert_array_equal(mine.vector, other[0].vector)


async def test_the_serving_model_alone_can_fail_a_write(bench: Bench) -> None:
    bench.create()
    number = (await bench.begin_generation()).number
    bench.new.down = True
    assert [ack.status for ack in await bench.ingest(*texts(2))] == [DURABLE] * 2
    assert not bench.generation(number).progress.complete
    assert bench.setbacks.leaves_out("docs", number)
    bench.new.down, bench.old.unreadable = False, "number 4"
    acks = await bench.ingest(*texts(2, first=3))
    assert [ack.status for ack in acks] == [DURABLE, FAILED]


@pytest.mark.parametrize("error", [Unavailable("the worker is gone"), RuntimeError("the tokenizer is broken")])
async def test_a_cut_that_fails_for_another_generation_leaves_it_out_of_the_window(
    bench: Bench, error: Exception
) -> None:
    bench.create()
    number = (await bench.begin_generation()).number
    bench.new.cut_error = error
    acks = await bench.ingest(*texts(3))
    assert [ack.status for ack in acks] == [DURABLE] * 3
    assert bench.setbacks.leaves_out("docs", number)
    assert not bench.generation(number).progress.complete
    bench.new.cut_error = None
    bench.reindexer.look("docs")
    await bench.until(lambda: bench.generation(number).progress.complete)
    await bench.until(lambda: not bench.setbacks.leaves_out("docs", number))
    assert [len(bench.passages(number, f"d{i}")) for i in (1, 2, 3)] == [1] * 3


async def test_a_window_asks_a_model_that_fails_to_cut_only_once(bench: Bench) -> None:
    bench.create()
    number = (await bench.begin_generation()).number
    bench.setbacks.tell(lambda _: None)
    bench.new.cut_error = Unavailable("the worker is gone")
    await bench.ingest(*texts(5))
    assert bench.new.cuts == 1
    await bench.ingest(*texts(5, first=6))
    assert bench.new.cuts == 1
    assert bench.setbacks.leaves_out("docs", number)


async def test_writes_do_not_try_a_model_again_that_failed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.setbacks.FIRST_SECONDS", 0.05)
    bench.create()
    number = (await bench.begin_generation()).number
    bench.setbacks.tell(lambda _: None)
    bench.new.down = True
    await bench.ingest(*texts(1))
    bench.new.down = False
    await asyncio.sleep(0.2)
    await bench.ingest(*texts(1, first=2))
    assert bench.new.embedded == []
    bench.setbacks.give_back("docs", number)
    await bench.ingest(*texts(1, first=3))
    assert len(bench.new.embedded) == 1


async def test_a_document_that_the_serving_model_cannot_read_is_no_setback_of_another_generation(bench: Bench) -> None:
    bench.create()
    number, _ = await bench.reindexer.start("docs", NewGeneration(), force=True)
    await bench.reindexer.build("docs", number.number)
    bench.old.unreadable = "number 1"
    assert [ack.status for ack in await bench.ingest(*texts(1))] == [FAILED]
    assert not bench.setbacks.leaves_out("docs", number.number)


@pytest.mark.parametrize("what", ["embed", "cut"])
async def test_a_model_that_hangs_delays_a_write_only_so_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.preparation.OTHERS_SECONDS", 0.2)
    bench.create()
    number = (await bench.begin_generation()).number
    bench.setbacks.tell(lambda _: None)
    (bench.new.gate if what == "embed" else bench.new.may_cut).clear()
    async with asyncio.timeout(10):
        assert [ack.status for ack in await bench.ingest(*texts(3))] == [DURABLE] * 3
    assert not bench.generation(number).progress.complete
    assert bench.setbacks.holds("docs", number)
    bench.new.may_cut.set()
    await asyncio.sleep(0.05)
    assert bench.new.cuts == (3 if what == "embed" else 1)


async def test_a_slower_model_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shortlist_server.pipeline.preparation.OTHERS_SECONDS", 0.0)
    bench.create()
    number = (await bench.begin_generation()).number
    bench.old.seconds, bench.new.seconds = 0.2, 0.7
    assert [ack.status for ack in await bench.ingest(*texts(1))] == [DURABLE]
    assert bench.generation(number).progress.complete
    bench.new.seconds = 3.0
    began = time.monotonic()
    assert [ack.status for ack in await bench.ingest(*texts(1, first=2))] == [DURABLE]
    assert time.monotonic() - began < 2.5
    assert bench.setbacks.leaves_out("docs", number)


async def test_what_one_document_does_to_a_model_costs_the_others_nothing(bench: Bench) -> None:
    bench.create()
    number = (await bench.begin_generation()).number
    bench.setbacks.tell(lambda _: None)
    bench.new.unreadable = "number 2"
    assert [ack.status for ack in await bench.ingest(*texts(3))] == [DURABLE] * 3
    assert not bench.setbacks.leaves_out("docs", number)
    assert [len(bench.passages(number, f"d{i}")) for i in (1, 2, 3)] == [1, 0, 1]


async def test_a_document_that_the_new_generation_refuses_fails_as_one(bench: Bench) -> None:
    bench.create(overflow=OverflowPolicy.ERROR)
    number = (await bench.begin_generation(max_tokens=16)).number
    long = Document(id="long", text="word " * 50)
    acks = await bench.ingest(*texts(1), long, stream="s")
    assert [ack.status for ack in acks] == [DURABLE, FAILED]
    assert acks[1].error is not None
    assert acks[1].error.reason == "DOCUMENT_TOO_LARGE"
    assert bench.collection.count(None) == 1
    assert bench.generation(number).progress.complete
    letters, _ = bench.collection.dead_letters(0, 10)
    assert [(letter.id, letter.stream) for letter in letters] == [("long", "s")]


async def test_a_document_that_the_former_generation_refuses_is_stored_without_passages_there(bench: Bench) -> None:
    bench.create(overflow=OverflowPolicy.ERROR, max_tokens=16)
    number = (await bench.begin_generation()).number
    await bench.ingest(*texts(1))
    await asyncio.wrap_future(bench.collection.switch_generation(number))
    long = Document(id="long", text="word " * 50)
    assert [ack.status for ack in await bench.ingest(long)] == [DURABLE]
    assert len(bench.passages(number, "long")) == 1
    assert len(bench.passages(1, "long")) == 0
    assert bench.generation(1).progress.complete


async def test_clients_vectors_stay_with_the_generation_without_an_embedder(bench: Bench) -> None:
    bench.create(embedder="none", dimension=3)
    number = (await bench.begin_generation()).number
    vector = np.array([3, 0, 4], dtype=np.float32)
    both = Document(id="both", text="a text", vector=vector)
    bare = Document(id="bare", vector=vector)
    assert [ack.status for ack in await bench.ingest(both, bare)] == [DURABLE] * 2
    for id in ("both", "bare"):
        (passage,) = bench.passages(1, id)
        assert passage.vector is not None
        assert passage.vector.tolist() == pytest.approx([0.6, 0, 0.8])
    assert [len(bench.passages(number, id)) for id in ("both", "bare")] == [1, 0]
    await asyncio.wrap_future(bench.collection.switch_generation(number))
    text = Document(id="text", text="only a text")
    assert [ack.status for ack in await bench.ingest(text, Document(id="new", text="b", vector=vector))] == [
        DURABLE
    ] * 2
    assert [len(bench.passages(1, id)) for id in ("text", "new")] == [0, 1]
    (passage,) = bench.passages(number, "new")
    assert passage.vector is not None
    assert len(passage.vector) == 64


async def test_a_document_without_a_vector_is_refused_where_clients_make_them(bench: Bench) -> None:
    bench.create(embedder="none", dimension=3)
    await bench.begin_generation()
    (ack,) = await bench.ingest(*texts(1))
    assert ack.error is not None
    assert ack.error.field == "document.vector"


async def test_a_window_is_embedded_again_when_another_generation_begins_to_serve(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(2))
    number = (await bench.begin_generation()).number
    await bench.reindexer.build("docs", number)
    bench.new.down = True  # The window lacks what will serve when it is committed.
    bench.gate.open.clear()
    writing = asyncio.create_task(bench.ingest(*texts(3, first=3), stream="s"))
    await asyncio.to_thread(bench.gate.held.wait, 10)
    bench.new.down = False
    generation = bench.generation(number)
    assert generation.progress.complete
    switching = bench.collection.switch_generation(number)
    bench.gate.open.set()
    await asyncio.wrap_future(switching)
    acks = await writing
    assert [(ack.position, ack.status) for ack in acks] == [(1, DURABLE), (2, DURABLE), (3, DURABLE)]
    assert [len(bench.passages(number, f"d{i}")) for i in range(1, 6)] == [1] * 5


async def test_a_window_that_is_embedded_again_may_hold_what_the_store_refuses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.create()
    real, tries = bench.collection.commit, [0]

    def commit(changes: Sequence[Change], *rest: Any) -> Future[Commit]:
        tries[0] += 1
        if tries[0] == 1:
            bench.old.unreadable = "number 1"
            raised: Future[Commit] = Future()
            raised.set_exception(GenerationChanged("another generation serves now"))
            return raised
        if tries[0] == 2:
            raised = Future()
            raised.set_exception(InvalidArgument("one of these"))
            return raised
        return real(changes, *rest)

    monkeypatch.setattr(bench.collection, "commit", commit)
    acks = await bench.ingest(*texts(3))
    assert [ack.status for ack in acks] == [FAILED, DURABLE, DURABLE]


async def test_what_is_unchanged_stays_so_after_a_switch(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(2))
    number = (await bench.reindexed()).number
    await asyncio.wrap_future(bench.collection.switch_generation(number))
    bench.new.embedded.clear()
    assert [ack.status for ack in await bench.ingest(*texts(3))] == [UNCHANGED, UNCHANGED, DURABLE]
    assert len(bench.new.embedded) == 1


async def test_writes_are_refused_while_the_serving_model_is_not_loaded(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(1))
    await bench.close()
    bench.open(Engine("old", 32, variant=2))
    with pytest.raises(ModelMismatch, match=r"collection 'docs': .*'shortlist reindex'"):
        await bench.ingest(*texts(1))
    await bench.close()
    bench.open(bench.new)
    with pytest.raises(ModelNotFound, match="no embedder 'old' is loaded"):
        await bench.ingest(*texts(1))


async def test_a_model_that_is_not_loaded_leaves_its_generation_behind(bench: Bench) -> None:
    bench.create()
    number = (await bench.begin_generation()).number
    await bench.close()
    bench.open(bench.old)
    assert [ack.status for ack in await bench.ingest(*texts(1))] == [DURABLE]
    assert not bench.generation(number).progress.complete


async def test_of_two_revisions_the_stored_one_goes_on(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(1))
    await bench.close()
    newer = Engine("old", 32, variant=2)
    bench.open(newer, bench.old)
    bench.old.embedded.clear()
    await bench.ingest(*texts(1, first=2))
    assert (len(bench.old.embedded), len(newer.embedded)) == (1, 0)
