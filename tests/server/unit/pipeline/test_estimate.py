"""The estimate of a reindex, against what the reindex then takes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from shortlist_server.domain import Deletion, Document, NewGeneration, OverflowPolicy
from shortlist_server.errors import InferenceFailed, OutOfSpace
from shortlist_server.pipeline.reindex import estimate as estimating
from shortlist_server.pipeline.reindex.room import Room

from .conftest import Bench

WORDS = [f"word{i}" for i in range(2000)]


def documents(count: int) -> list[Document]:
    """Documents of one to four passages; the later ones are longer."""
    chosen = random.Random(1)
    return [
        Document(id=f"d{i}", title=f"title {i}", text=" ".join(chosen.choices(WORDS, k=40 + 300 * i // count)))
        for i in range(count)
    ]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def test_the_estimate_is_within_a_quarter_of_what_a_reindex_takes(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*documents(2000))
    folder = bench.folder / "collections" / "docs"
    await settled(bench, 1)
    before = folder_bytes(folder)
    generation, estimate = await bench.reindexer.start("docs", NewGeneration(embedder="new", max_tokens=64))
    built = await bench.reindexer.build("docs", generation.number)
    await settled(bench, generation.number)
    assert estimate.sampled_documents == estimating.SAMPLE_PLACES * estimating.DOCUMENTS_AT_PLACE
    assert estimate.document_count == 2000
    assert estimate.passage_count == pytest.approx(built.passage_count, rel=0.1)
    assert estimate.token_count == pytest.approx(built.progress.done_tokens, rel=0.1)
    taken = folder_bytes(folder) - before
    assert estimate.disk_bytes == pytest.approx(taken, rel=0.25)
    assert estimate.disk_bytes == pytest.approx(bench.generation(generation.number).disk_bytes, rel=0.25)
    assert 0 < estimate.free_disk_bytes < 10**15
    assert estimate.memory_bytes > 4 * 64 * built.passage_count
    assert estimate.free_memory_bytes > 0


async def settled(bench: Bench, number: int) -> None:
    """Waits until a generation's passages are in segments, and the log in the database."""
    last = -1

    def steady() -> bool:
        nonlocal last
        now = bench.generation(number).disk_bytes
        same, last = now == last, now
        return same

    for _ in range(3):
        await asyncio.sleep(0.7)
        await bench.until(steady)
    await bench.close()
    bench.open()
    await asyncio.wrap_future(bench.collection.commit(()))


async def test_a_small_collection_is_sampled_whole_and_has_no_segments(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*documents(20))
    await asyncio.wrap_future(bench.collection.commit([Deletion(id="d3")]))
    estimate = await bench.reindexer.estimate("docs", NewGeneration(embedder="new"))
    assert (estimate.sampled_documents, estimate.document_count) == (19, 19)
    assert estimate.duration_seconds > 0
    assert estimate.disk_bytes < estimate.passage_count * 2 * 4 * 64 * 10
    assert len(bench.collection.generations()) == 1


async def test_an_empty_collection_needs_nothing(bench: Bench) -> None:
    bench.create()
    estimate = await bench.reindexer.estimate("docs", NewGeneration(embedder="new"))
    assert (estimate.document_count, estimate.disk_bytes, estimate.duration_seconds) == (0, 0, 0.0)


async def test_documents_that_the_generation_would_refuse_are_not_counted_as_passages(bench: Bench) -> None:
    bench.create(overflow=OverflowPolicy.ERROR, max_tokens=400)
    await bench.ingest(Document(id="long", text="word " * 300), Document(id="short", text="word"))
    estimate = await bench.reindexer.estimate("docs", NewGeneration(embedder="new", max_tokens=16))
    assert (estimate.document_count, estimate.passage_count) == (2, 1)


async def test_a_reindex_that_does_not_fit_on_the_disk_is_refused_unless_it_is_forced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.create()
    await bench.ingest(*documents(20))
    monkeypatch.setattr(Room, "free_bytes", lambda _: 1)
    with pytest.raises(OutOfSpace, match="force") as refusal:
        await bench.reindexer.start("docs", NewGeneration(embedder="new"))
    assert int(refusal.value.metadata["needed_bytes"]) > int(refusal.value.metadata["free_bytes"]) == 1
    assert len(bench.collection.generations()) == 1
    generation, estimate = await bench.reindexer.start("docs", NewGeneration(embedder="new"), force=True)
    assert estimate.free_disk_bytes == 1
    assert (await bench.reindexer.build("docs", generation.number)).progress.complete


async def test_a_model_that_fails_on_the_sample_starts_nothing(bench: Bench) -> None:
    bench.create()
    await bench.ingest(*documents(3))
    bench.new.unreadable = "word"
    with pytest.raises(InferenceFailed):
        await bench.reindexer.start("docs", NewGeneration(embedder="new"))
    assert len(bench.collection.generations()) == 1
