"""Both clients change the model of a collection on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import shortlist
from shortlist import Chunking, Client, CollectionConfig, Document, ReindexProgress, SearchQuery
from shortlist_server.testing import server

NOTES = [Document(id=f"n{i}", text=f"note{i} about something and number{i % 5}") for i in range(40)]
MANY = [Document(id=f"m{i}", text=" ".join(f"word{i * j}" for j in range(150))) for i in range(150)]
"""So many that a build is still under way when the next call comes."""
QUERIES = {f"q{i}": f"note{i} about something" for i in range(10)}
QRELS = {f"q{i}": {f"n{i}": 1} for i in range(10)}


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with server(embedders=("hashing", "small=hashing:64"), sampled_queries=50) as running:
        yield running.target


@pytest.fixture
async def notes(client: Any, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    name = f"c{abs(hash(request.node.nodeid)) % 10**12}"
    await client.create_collection(name, CollectionConfig(embedder="hashing"))
    assert (await client.ingest(name, NOTES).finish()).durable == 40
    yield name
    await client.delete_collection(name)


async def test_a_collection_changes_its_model_and_back(client: Any, notes: str) -> None:
    told: list[ReindexProgress] = []
    new = await client.reindex(notes, embedder="small", progress=told.append)
    assert (new.number, new.state, new.complete, new.embedder, new.dimension) == (2, "building", True, "small", 64)
    assert told[-1].total_documents == 40
    assert told[-1].done_tokens > 0
    before = await client.search(notes, "note3")
    assert (before.report.generation, before.report.embedder.name) == (1, "hashing")
    canary = await client.search(notes, "note3", generation=2)
    assert (canary.report.generation, canary.report.embedder.name) == (2, "small")
    first, second = await client.batch_search(
        [SearchQuery(collection=notes, text="note3", generation=number) for number in (0, 2)]
    )
    assert (first.report.generation, second.report.generation) == (1, 2)
    switched = await client.switch_generation(notes)
    assert (switched.serving.number, switched.former.number) == (2, 1)
    assert switched.serving.serve_time is not None
    assert (await client.get_collection(notes)).config.embedder == "small"
    assert (await client.search(notes, "note3")).report.generation == 2
    await client.ingest(notes, [Document(id="late", text="a late note")]).finish()
    back = await client.roll_back_generation(notes)
    assert (back.serving.number, back.former.number) == (1, 2)
    found = await client.search(notes, "a late note")
    assert (found[0].id, found.report.generation) == ("late", 1)
    assert found[0].dense is not None
    await client.drop_generation(notes, 2)
    with pytest.raises(shortlist.GenerationNotFound):
        await client.search(notes, "note3", generation=2)
    assert [one.state for one in await client.generations(notes) if one.state != "dropping"] == ["serving"]


async def test_an_estimate_starts_nothing(client: Any, notes: str) -> None:
    estimate = await client.estimate_reindex(notes, embedder="small", chunking=Chunking(max_tokens=32))
    assert estimate.document_count == 40
    assert estimate.passage_count >= 40
    assert min(estimate.token_count, estimate.disk_bytes, estimate.memory_bytes, estimate.sampled_documents) > 0
    assert estimate.fits_on_disk
    assert [one.number for one in await client.generations(notes)] == [1]


async def test_generations_are_compared_by_judged_and_by_recent_queries(client: Any, notes: str) -> None:
    with pytest.raises(shortlist.GenerationNotFound):
        await client.compare_generations(notes, queries=QUERIES, qrels=QRELS)
    await client.reindex(notes, embedder="small")
    compared = await client.compare_generations(notes, queries=QUERIES, qrels=QRELS)
    assert (compared.serving, compared.candidate, compared.query_count) == (1, 2, 10)
    assert compared.rankings.keys() == {"dense", "lexical", "fused", "final"}
    lexical = compared.rankings["lexical"]
    assert lexical.serving == lexical.candidate
    assert (lexical.ndcg_difference, lexical.p_value) == (0.0, 1.0)
    assert 0 <= compared.mean_overlap <= 1
    with pytest.raises(shortlist.FailedPrecondition, match="searched"):
        await client.compare_generations(notes)
    for text in QUERIES.values():
        await client.search(notes, text)
    recent = await client.compare_generations(notes, recent_queries=5)
    assert (recent.query_count, recent.rankings) == (5, {})
    assert recent.candidate_median_seconds > 0


async def test_a_started_reindex_is_followed_paused_resumed_and_cancelled(client: Any, notes: str) -> None:
    await client.ingest(notes, MANY).finish()
    started = await client.start_reindex(notes, embedder="small")
    assert (started.kind, started.collection) == ("reindex", notes)
    with pytest.raises(shortlist.GenerationNotReady):
        await client.start_reindex(notes, embedder="small")
    paused = await client.pause_operation(started.name)
    assert paused.name == started.name
    (_, building) = await client.generations(notes)
    assert (building.operation, building.complete) == (started.name, False)
    assert building.paused_reason
    with pytest.raises(shortlist.GenerationNotReady):
        await client.switch_generation(notes)
    partial = await client.search(notes, "word7", generation=building.number)
    assert "generation_incomplete" in {one.kind for one in partial.report.degradations}
    assert (await client.resume_operation(started.name)).name == started.name
    await client.cancel_operation(started.name)
    ended = await client.wait_operation(started.name)
    assert isinstance(ended.error, shortlist.OperationCancelled)
    assert [one.state for one in await client.generations(notes) if one.state != "dropping"] == ["serving"]


async def test_a_wait_that_ends_early_leaves_the_server_building(client: Any, notes: str) -> None:
    await client.ingest(notes, MANY).finish()

    def interrupt(progress: ReindexProgress) -> None:
        raise KeyError(progress.done_documents)

    with pytest.raises(KeyError):
        await client.reindex(notes, embedder="small", progress=interrupt)
    (_, building) = await client.generations(notes)
    ended = await client.wait_operation(building.operation)
    assert ended.result.complete


async def test_a_reindex_goes_on_under_its_name_after_a_restart(connect: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"embedders": ("hashing", "small=hashing:64")}
    with server(tmp_path, **settings) as running, Client(running.target) as first:
        first.create_collection("notes", CollectionConfig(embedder="hashing"))
        first.ingest("notes", MANY).finish()
        name = first.start_reindex("notes", embedder="small").name
        first.pause_operation(name)
    with server(tmp_path, **settings) as running:
        second = connect(running.target)
        assert (await second.get_operation(name)).state == "paused"
        await second.resume_operation(name)
        ended = await second.wait_operation(name)
        assert (ended.state, ended.result.number) == ("succeeded", 2)
        assert (await second.switch_generation("notes")).serving.embedder == "small"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"embedder": "absent"}, shortlist.ModelNotFound),
        ({"embedder": "none"}, shortlist.InvalidArgument),
        ({"chunking": Chunking(max_tokens=100_000)}, shortlist.InvalidArgument),
        ({"dimension": 7000}, shortlist.InvalidArgument),
    ],
)
async def test_what_cannot_be_built_is_refused_at_once(client: Any, notes: str, arguments: Any, error: Any) -> None:
    for call in (client.estimate_reindex, client.start_reindex):
        with pytest.raises(error):
            await call(notes, **arguments)
    with pytest.raises(shortlist.CollectionNotFound):
        await client.start_reindex("absent", **arguments)
    assert len(await client.generations(notes)) == 1


async def test_a_collection_of_its_callers_vectors_gets_an_embedder_for_its_texts(client: Any) -> None:
    await client.create_collection("vectors", CollectionConfig(embedder="none", dimension=2))
    documents = [{"id": "text", "text": "an owl", "vector": [1, 2]}, {"id": "bare", "vector": [2, 1]}]
    await client.ingest("vectors", documents).finish()
    with pytest.raises(shortlist.InvalidArgument):
        await client.start_reindex("vectors")
    new = await client.reindex("vectors", embedder="small")
    (failed,) = [one async for one in client.list_dead_letters("vectors")]
    assert (failed.id, failed.stream) == ("bare", f"reindex/{new.number}")
    await client.switch_generation("vectors")
    assert [hit.id for hit in await client.search("vectors", "owl")] == ["text"]
    await client.delete_collection("vectors")
