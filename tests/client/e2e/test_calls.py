"""Both clients against a real server: every call, and what each raises."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

import shortlist
from shortlist import (
    Client,
    CollectionConfig,
    Deletion,
    Document,
    Field,
    Fusion,
    Include,
    Rerank,
    RerankStage,
    SearchDefaults,
    SearchQuery,
    SearchResult,
)
from shortlist_server.testing import server

BOOKS = [
    Document(
        id="fox", title="The fox", text="a quick brown fox jumps over a dog", metadata={"year": 2001, "tags": ["a"]}
    ),
    Document(
        id="cat", title="The cat", text="a lazy cat sleeps on a warm sofa", metadata={"year": 2010, "tags": ["b"]}
    ),
    Document(
        id="owl", title="The owl", text="an old owl hunts mice at night", metadata={"year": 2020, "by": {"name": "Li"}}
    ),
]


@pytest.fixture
async def books(client: Any, collection: str) -> str:
    summary = await client.ingest(collection, BOOKS).finish()
    assert summary.durable == 3
    return collection


async def test_a_search_answers_with_every_stage(client: Any, books: str) -> None:
    result = await client.search(books, "quick fox", limit=2)
    assert result[0].id == "fox"
    best = result[0]
    assert (best.rank, best.document.title, best.document.metadata["year"]) == (1, "The fox", 2001)
    assert best.dense and best.lexical and best.rerank
    assert len(result) == 2
    assert result.report.mode == "hybrid"
    assert {"embed", "dense", "lexical", "fuse"} <= result.report.stage_seconds.keys()


async def test_every_parameter_of_a_search_reaches_the_server(client: Any, books: str) -> None:
    result = await client.search(
        books,
        "a fox or a cat",
        limit=1,
        offset=1,
        filter=Field("year") < 2020,
        mode="lexical",
        rerank=False,
        candidates=shortlist.Candidates(lexical=10),
        fusion=Fusion(method="rrf", rrf_k=10),
        include=Include(text=False, metadata=False),
        min_score=0.0,
        timeout_seconds=10,
    )
    (hit,) = result
    assert (hit.rank, hit.rerank, hit.document.text) == (2, None, "")
    assert (result.report.mode, result.report.filter_matches) == ("lexical", 2)
    result = await client.search(books, "a fox", include=Include(text=False, vectors=True))
    assert len(result[0].passages[0].passage.vector or ()) == 256


async def test_an_explanation_tells_the_way_of_every_candidate(client: Any, books: str) -> None:
    assert (await client.search(books, "quick fox")).explanation is None
    result = await client.search(books, "quick fox", limit=1, rerank=Rerank(depth=2), explain_texts=True)
    said = result.explanation
    assert said.candidates[0].id == result[0].id == "fox"
    assert (said.candidates[0].dense, said.candidates[0].rerank) == (result[0].dense, result[0].rerank)
    assert [one.outcome for one in said.candidates] == ["returned", "beyond_limit", "beyond_limit"]
    assert [one.rerank_outcome for one in said.candidates] == ["scored", "scored", "beyond_depth"]
    assert (said.fusion_method, said.dense_candidates) == ("weighted_sum", 100)
    assert [(stage.stage, stage.depth, stage.reranked) for stage in result.report.rerank_stages] == [(1, 2, 2)]
    (growing,) = said.dense_sources
    assert (growing.name, growing.passages, growing.matches, growing.strategy) == ("growing", 3, None, "exact")
    assert said.texts.query == "quick fox"
    assert {passage.id for passage in said.texts.passages} == {one.id for one in said.candidates[:2]}
    filtered, _ = await client.batch_search(
        [
            SearchQuery(collection=books, text="owl", filter=Field("year") > 2001, explain=True),
            SearchQuery(collection=books, text="owl"),
        ]
    )
    assert filtered.explanation.dense_sources[0].matches == 2
    assert filtered.explanation.texts is None


async def test_rerank_settings_travel_and_a_collection_presets_them(client: Any, books: str) -> None:
    result = await client.search(books, "owl", rerank=Rerank(depth=1))
    assert result.report.reranked == 1
    updated = await client.update_collection(books, SearchDefaults(mode="lexical", rerank=Rerank(enabled=False)))
    assert updated.config.search_defaults.mode == "lexical"
    result = await client.search(books, "owl")
    assert (result.report.mode, result.report.reranked) == ("lexical", 0)


async def test_a_search_reranks_in_stages_and_a_hit_has_the_score_of_each(client: Any, books: str) -> None:
    stages = [RerankStage(depth=3, weight=0.25), RerankStage(model="late-interaction", depth=2, weight=1.0)]
    result = await client.search(books, "quick fox", rerank=stages, include=Include(passages=True))
    assert [(stage.stage, stage.depth, stage.weight) for stage in result.report.rerank_stages] == [
        (1, 3, 0.25),
        (2, 2, 1.0),
    ]
    assert [tuple(score.stage for score in hit.reranks) for hit in result] == [(1, 2), (1, 2), (1,)]
    for hit in result:
        assert hit.rerank == hit.reranks[-1]
        assert (hit.rerank.blended, hit.rerank.blended_rank) == (hit.score, hit.rank)
        assert hit.passages[0].rerank_scores == {score.stage: score.score for score in hit.reranks}
        assert hit.passages[0].rerank_score == hit.rerank.score
    assert (result.report.reranker.name, result.report.reranked) == ("late-interaction", 2)
    assert result.report.rerank_tokens == 0


async def test_a_collection_presets_stages_and_a_request_replaces_them_or_changes_the_last(
    client: Any, books: str
) -> None:
    stages = (RerankStage(depth=3, instruction="find it"), RerankStage(depth=2, weight=0.5, deadline_share=0.25))
    presets = SearchDefaults(rerank=Rerank(stages=stages))
    updated = await client.update_collection(books, presets)
    assert updated.config.search_defaults == presets
    effective = updated.effective_search_defaults.rerank
    assert [(stage.model, stage.depth, stage.weight) for stage in effective.stages] == [
        ("late-interaction", 3, 0.4),
        ("late-interaction", 2, 0.5),
    ]
    assert (effective.depth, effective.model) == (None, "")

    async def run(rerank: Any) -> list[tuple[int, float]]:
        result = await client.search(books, "owl", rerank=rerank)
        return [(stage.depth, stage.weight) for stage in result.report.rerank_stages]

    assert await run(None) == [(3, 0.4), (2, 0.5)]
    assert await run(Rerank(depth=1)) == [(3, 0.4), (1, 0.5)]
    assert await run([RerankStage(depth=1)]) == [(1, 0.4)]
    assert await run(Rerank(model="none")) == await run(False) == []
    mask = ["search_defaults.rerank.stages"]
    one = await client.update_collection(books, SearchDefaults(), update_mask=mask)
    assert one.config.search_defaults == SearchDefaults()
    assert await run(None) == [(50, 0.4)]


@pytest.mark.parametrize("given", [RerankStage(), Rerank(stages=RerankStage())])  # type: ignore[arg-type]
async def test_one_stage_alone_is_no_list_of_stages(client: Any, books: str, given: Any) -> None:
    with pytest.raises(shortlist.InvalidArgument, match="not one"):
        await client.search(books, "owl", rerank=given)


@pytest.mark.parametrize(
    ("filter", "ids"),
    [
        (Field("year") >= 2010, {"cat", "owl"}),
        (Field("tags").contains("a"), {"fox"}),
        (Field("by.name") == "Li", {"owl"}),
        (Field("by")["name"] == "Li", {"owl"}),
        (Field("by").exists() | (Field("year") == 2001), {"owl", "fox"}),
        (~Field("year").is_in([2001, 2010]), {"owl"}),
        (Field("year").between(2001, 2010) & (Field("year") != 2001), {"cat"}),
    ],
)
async def test_filters_mean_what_they_say(client: Any, books: str, filter: shortlist.Filter, ids: set[str]) -> None:
    assert {document.id async for document in client.list(books, filter=filter)} == ids
    assert await client.count(books, filter=filter) == len(ids)


async def test_a_batch_of_searches_fails_one_by_one(client: Any, books: str) -> None:
    good, bad = await client.batch_search(
        [SearchQuery(collection=books, text="owl"), SearchQuery(collection="no", text="x")]
    )
    assert isinstance(good, SearchResult)
    assert good[0].id == "owl"
    assert isinstance(bad, shortlist.CollectionNotFound)


async def test_get_keeps_the_order_of_the_ids_and_marks_the_missing(client: Any, books: str) -> None:
    owl, missing, fox = await client.get(books, ["owl", "nope", "fox"], include=Include(passages=True))
    assert (owl.id, missing, fox.id) == ("owl", None, "fox")
    assert owl.metadata == {"year": 2020, "by": {"name": "Li"}}
    assert owl.passages[0].text == "an old owl hunts mice at night"


async def test_deleting_by_id_and_by_filter(client: Any, books: str) -> None:
    assert (await client.delete(books, ["fox", "nope"])).deleted_count == 1
    assert (await client.delete(books, filter=Field("year") == 2010)).deleted_count == 1
    assert [document.id async for document in client.list(books)] == ["owl"]
    with pytest.raises(shortlist.InvalidArgument, match="either"):
        await client.delete(books)


async def test_lists_come_page_by_page(client: Any, books: str) -> None:
    assert [document.id async for document in client.list(books, page_size=2)] == ["fox", "cat", "owl"]
    pages = [page async for page in client.list(books, page_size=2).pages()]
    assert [len(page) for page in pages] == [2, 1]


async def test_pages_of_large_documents_end_early(connect: Any, tmp_path: Path) -> None:
    with server(tmp_path, max_message_bytes=100_000) as small:
        client = connect(small.target)
        await client.create_collection("large", CollectionConfig(embedder="none", dimension=2))
        good = [Document(id=f"good{n}", text="x" * 30_000, vector=[1, n]) for n in range(7)]
        bad = [Document(id=f"bad{n}", text="x" * 30_000, vector=[0, 0]) for n in range(7)]
        await client.ingest("large", [*good, *bad]).finish(check=False)
        assert [document.id async for document in client.list("large")] == [document.id for document in good]
        kept = [one.document.id async for one in client.list_dead_letters("large", include_document=True)]
        assert kept == [document.id for document in bad]
        assert [len(page) async for page in client.list("large").pages()] == [1] * 7


async def test_collections_are_made_listed_and_removed(client: Any) -> None:
    made = await client.create_collection("made-here", CollectionConfig(filterable_fields=("year",)))
    try:
        assert made.config.filterable_fields == ("year",)
        assert made.config.embedder == "hashing"
        assert "made-here" in [c.name async for c in client.list_collections(page_size=1)]
        with pytest.raises(shortlist.CollectionExists):
            await client.create_collection("made-here")
    finally:
        await client.delete_collection("made-here")
    with pytest.raises(shortlist.CollectionNotFound):
        await client.get_collection("made-here")


async def test_own_writes_are_read_with_their_sequence(client: Any, books: str) -> None:
    acks = [ack async for ack in client.ingest(books, [{"id": "new", "text": "a heron"}])]
    result = await client.search(books, "heron", min_sequence=acks[0].sequence)
    assert result[0].id == "new"
    with pytest.raises((shortlist.SequenceNotReached, shortlist.DeadlineExceeded)):
        await client.search(books, "heron", min_sequence=10**9, timeout_seconds=0.5)


@pytest.mark.parametrize(
    ("arguments", "error", "field"),
    [
        ({"text": ""}, shortlist.InvalidArgument, "query"),
        ({"text": "x", "limit": -1}, shortlist.InvalidArgument, "limit"),
        ({"text": "x", "mode": "sideways"}, shortlist.InvalidArgument, "mode"),
        ({"text": "\ud800"}, shortlist.InvalidArgument, "query.text"),
        ({"vector": [1.0]}, shortlist.InvalidVector, "query.vector"),
        ({"vector": [float("nan")]}, shortlist.InvalidVector, "query.vector"),
        ({"text": "x", "filter": "year > 3"}, shortlist.InvalidArgument, "filter"),
        ({"text": "x", "timeout_seconds": -1}, shortlist.InvalidArgument, "timeout_seconds"),
    ],
)
async def test_a_wrong_argument_is_named(
    client: Any, books: str, arguments: dict[str, Any], error: type[shortlist.ShortlistError], field: str
) -> None:
    with pytest.raises(error) as caught:
        await client.search(books, **arguments)
    assert caught.value.field.startswith(field)


async def test_an_error_of_the_server_keeps_the_raw_status(client: Any) -> None:
    with pytest.raises(shortlist.CollectionNotFound) as caught:
        await client.search("nowhere", "x")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.reason == "COLLECTION_NOT_FOUND"
    assert isinstance(caught.value.__cause__, grpc.RpcError)


async def test_readiness(client: Any, connect: Any) -> None:
    assert await client.ready()
    assert await client.health()
    assert await client.health("shortlist.v1.SearchService")
    with pytest.raises(shortlist.NotFound):
        await client.health("s" * 200)
    await client.wait_until_ready(5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = connect(f"127.0.0.1:{free.getsockname()[1]}")
        assert not await nobody.ready(timeout_seconds=1)
        with pytest.raises(shortlist.ServerUnavailable, match="not ready within"):
            await nobody.wait_until_ready(0.5)


async def test_a_server_that_is_not_there_is_an_error_soon(connect: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = connect(f"127.0.0.1:{free.getsockname()[1]}", timeout_seconds=10)
        begun = time.monotonic()
        with pytest.raises(shortlist.ServerUnavailable):
            await nobody.count("books")
        assert time.monotonic() - begun < 9


async def test_a_silent_server_is_given_up_at_the_deadline(connect: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = connect(f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises((shortlist.DeadlineExceeded, shortlist.ServerUnavailable)):
            await client.count("books", timeout_seconds=0.5)


async def test_a_closed_client_says_so(connect: Any) -> None:
    client = connect()
    await client.close()
    with pytest.raises(shortlist.ClientClosed):
        await client.count("books")
    run = client.ingest("books", [Deletion("x")])
    with pytest.raises(shortlist.ClientClosed):
        await run.finish()


def test_an_async_client_may_be_made_before_its_event_loop_runs(target: str) -> None:
    client = shortlist.AsyncClient(target)

    async def use() -> bool:
        async with client:
            return await client.ready()

    assert asyncio.run(use())


def test_a_client_used_after_a_fork_says_so(target: str) -> None:
    # Forked before gRPC has a connection, in a process of its own: this one has threads.
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_fork_and_use, args=(target, queue))
    process.start()
    assert queue.get(timeout=60) == "UsedAfterFork"
    process.join(30)


def _fork_and_use(target: str, queue: Any) -> None:
    client = Client(target)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        client.count("books")
    except Exception as error:
        queue.put(type(error).__name__)
        queue.close()
        queue.join_thread()
    os._exit(0)


def test_a_fork_can_leave_the_with_block_of_a_client_at_work(target: str) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_fork_and_close, args=(target, queue))
    process.start()
    assert queue.get(timeout=60) == "closed"
    process.join(30)


def _fork_and_close(target: str, queue: Any) -> None:
    with Client(target) as client:
        client.create_collection("forked")
        run = client.ingest("forked", ({"id": f"d{number}", "text": "x"} for number in itertools.count()))
        next(run)
        child = os.fork()
        if not child:
            client.close()
            os._exit(0)
        ends = time.monotonic() + 10
        while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < ends:
            time.sleep(0.05)
        queue.put("closed" if ended else "hangs")
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        run.close()
        client.delete_collection("forked")
