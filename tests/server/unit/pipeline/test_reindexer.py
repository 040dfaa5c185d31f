"""Reindexes: what they build, how they stop and go on, and what a failing model does to them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from shortlist_server.domain import Deletion, Document, NewGeneration, OverflowPolicy, ReindexProgress
from shortlist_server.errors import (
    CollectionNotFound,
    GenerationNotFound,
    GenerationNotReady,
    InvalidArgument,
    ModelNotFound,
)

from .conftest import Bench, Engine, begin, texts


async def test_a_reindex_builds_every_document(bench: Bench, small_portions: None) -> None:
    bench.create()
    await bench.ingest(*texts(23))
    told: list[ReindexProgress] = []
    generation, estimate = await bench.reindexer.start("docs", NewGeneration(embedder="new"))
    assert estimate.document_count == estimate.passage_count == estimate.sampled_documents == 23
    built = await bench.reindexer.build("docs", generation.number, told.append)
    assert built.progress.complete
    assert (built.progress.done_documents, built.passage_count) == (23, 23)
    assert built.progress.done_tokens == 23 * 6
    assert (told[-1].done_documents, told[-1].total_documents, told[-1].paused) == (23, 23, "")
    for i in (1, 12, 23):
        (passage,) = bench.passages(generation.number, f"d{i}")
        (expected,) = bench.new.embed_passages([f"text number {i} of a few"], token_vectors=False)
        assert passage.vector is not None
        np.testing.assert_allclose(passage.vector, expected.vector, atol=1e-6)


async def test_a_reindex_of_an_empty_collection_is_complete(bench: Bench) -> None:
    bench.create()
    assert (await bench.reindexed()).progress.complete


async def test_a_build_goes_on_after_a_restart_where_it_was(bench: Bench, small_portions: None) -> None:
    bench.create()
    await bench.ingest(*texts(40))
    bench.new.gate.clear()
    generation, _ = await begin(bench)
    written = asyncio.create_task(bench.until(lambda: bench.generation(generation).progress.done_documents >= 5))
    bench.new.gate.set()
    await written
    await bench.close()
    bench.open()
    done = bench.generation(generation).progress.done_documents
    bench.new.embedded.clear()
    await bench.reindexer.begin()
    await bench.until(lambda: bench.generation(generation).progress.complete)
    assert len(bench.new.embedded) == 40 - done


async def test_a_paused_build_does_nothing_until_it_is_resumed_even_after_a_restart(
    bench: Bench, small_portions: None
) -> None:
    bench.create()
    await bench.ingest(*texts(30))
    bench.new.gate.clear()
    number, building = await begin(bench)
    await asyncio.sleep(0.1)
    await bench.reindexer.pause("docs", number, "it is noon")
    bench.new.gate.set()
    await asyncio.sleep(0.2)
    paused = bench.generation(number).progress
    assert (paused.paused, paused.paused_by_user, paused.complete) == ("it is noon", True, False)
    progress = bench.reindexer.progress("docs", number)
    assert progress is not None
    assert (progress.paused, progress.documents_per_second) == ("it is noon", 0.0)
    building.cancel()
    await bench.close()
    bench.open()
    await bench.reindexer.begin()
    await asyncio.sleep(0.2)
    assert bench.generation(number).progress.done_documents == paused.done_documents
    await bench.reindexer.resume("docs", number)
    built = await bench.reindexer.build("docs", number)
    assert (built.progress.complete, built.progress.paused) == (True, "")


async def test_a_cancelled_build_leaves_no_generation(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(30))
    bench.new.gate.clear()
    number, building = await begin(bench)
    await asyncio.sleep(0.1)
    await bench.reindexer.cancel("docs", number)
    bench.new.gate.set()
    with pytest.raises(GenerationNotFound):
        await building
    assert bench.reindexer.progress("docs", number) is None or bench.generation(1)
    await bench.until(lambda: [one.number for one in bench.collection.generations()] == [1])


async def test_who_follows_a_build_may_go_and_the_build_goes_on(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(30))
    bench.new.gate.clear()
    number, building = await begin(bench)
    await asyncio.sleep(0.1)
    building.cancel()
    bench.new.gate.set()
    await bench.until(lambda: bench.generation(number).progress.complete)


async def test_documents_that_the_new_model_cannot_take_become_dead_letters(bench: Bench) -> None:
    bench.create(overflow=OverflowPolicy.ERROR)
    vector = np.ones(32, dtype=np.float32)
    await bench.ingest(*texts(3), Document(id="bare", vector=vector), Document(id="long", text="word " * 50))
    bench.new.unreadable = "number 2"
    number = (await bench.begin_generation(max_tokens=16)).number
    built = await bench.reindexer.build("docs", number)
    assert (built.progress.complete, built.progress.failed_documents) == (True, 3)
    letters, _ = bench.collection.dead_letters(0, 10)
    stream = f"reindex/{number}"
    assert {(one.id, one.stream, one.reason) for one in letters} == {
        ("bare", stream, "INVALID_ARGUMENT"),
        ("long", stream, "DOCUMENT_TOO_LARGE"),
        ("d2", stream, "INFERENCE_FAILED"),
    }
    assert [len(bench.passages(number, id)) for id in ("bare", "long", "d1", "d2", "d3")] == [0, 0, 1, 0, 1]


async def test_a_model_that_reads_no_document_but_works_refuses_them(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(1))
    bench.new.unreadable = "number 1"
    number, building = await begin(bench)
    await building
    assert bench.generation(number).progress.failed_documents == 1


@pytest.mark.parametrize("serves", [False, True])
async def test_a_generation_that_writes_left_out_is_made_up(bench: Bench, serves: bool) -> None:
    bench.create()
    await bench.ingest(*texts(3))
    number = (await bench.reindexed()).number
    engine, lagging = bench.new, number
    if serves:
        await asyncio.wrap_future(bench.collection.switch_generation(number))
        engine, lagging = bench.old, 1
    engine.down = True
    assert all(ack.error is None for ack in await bench.ingest(*texts(3, first=4)))
    assert not bench.generation(lagging).progress.complete
    engine.down = False
    await bench.until(lambda: bench.generation(lagging).progress.complete)
    assert [len(bench.passages(lagging, f"d{i}")) for i in range(1, 7)] == [1] * 6


async def test_writes_and_deletions_meanwhile_are_in_the_new_generation_too(bench: Bench, small_portions: None) -> None:
    bench.create()
    await bench.ingest(*texts(60))
    number, building = await begin(bench)
    for i in range(1, 60, 3):
        await bench.ingest(Document(id=f"d{i}", text=f"another text {i}"), Document(id=f"e{i}", text="new"))
        await asyncio.wrap_future(bench.collection.commit([Deletion(id=f"d{i + 1}")]))
    await building
    assert bench.generation(number).progress.done_documents == bench.collection.count(None) == 60
    (passage,) = bench.passages(number, "d31")
    (expected,) = bench.new.embed_passages(["another text 31"], token_vectors=False)
    assert passage.vector is not None
    np.testing.assert_allclose(passage.vector, expected.vector, atol=1e-6)


async def test_one_generation_is_built_at_a_time(bench: Bench) -> None:
    bench.create()
    await bench.reindexed()
    with pytest.raises(GenerationNotReady):
        await bench.reindexer.start("docs", NewGeneration(embedder="new", max_tokens=64))


async def test_what_cannot_be_built_is_refused(bench: Bench) -> None:
    bench.create()
    for error, new in (
        (ModelNotFound, NewGeneration(embedder="another")),
        (InvalidArgument, NewGeneration(embedder="none")),
        (InvalidArgument, NewGeneration(embedder="new", dimension=7)),
        (InvalidArgument, NewGeneration(embedder="new", max_tokens=3)),
        (InvalidArgument, NewGeneration(embedder="new", query_instruction="find")),
        (InvalidArgument, NewGeneration()),
    ):
        with pytest.raises(error):
            await bench.reindexer.start("docs", new)
    with pytest.raises(CollectionNotFound):
        await bench.reindexer.start("other", NewGeneration(embedder="new"))
    with pytest.raises(GenerationNotFound):
        await bench.reindexer.build("docs", 7)
    assert len(bench.collection.generations()) == 1


async def test_a_generation_takes_what_is_not_said_from_the_collection_or_the_embedder(bench: Bench) -> None:
    bench.create(max_tokens=64, overlap_tokens=8)
    other, _ = await bench.reindexer.start("docs", NewGeneration(embedder="new"))
    assert other.config.chunking == bench.new.info.default_chunking
    assert (other.config.dimension, other.config.embedder_revision) == (64, bench.new.info.revision)
    await bench.reindexer.cancel("docs", other.number)
    own, _ = await bench.reindexer.start("docs", NewGeneration(max_tokens=32))
    assert (own.config.embedder, own.config.chunking.max_tokens, own.config.chunking.overlap_tokens) == ("old", 32, 4)


async def test_a_newer_revision_of_the_same_name_is_what_a_reindex_builds(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*texts(2))
    await bench.close()
    newer = Engine("old", 48, variant=2)
    bench.open(newer, bench.old)
    generation, _ = await bench.reindexer.start("docs", NewGeneration())
    assert (generation.config.embedder_revision, generation.config.dimension) == (newer.info.revision, 48)
    assert (await bench.reindexer.build("docs", generation.number)).progress.complete
