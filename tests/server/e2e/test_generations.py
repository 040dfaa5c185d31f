"""Generations of a real server: what their calls answer and refuse, and what searches of one generation say."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import shortlist
from shortlist import Client, CollectionConfig, Document, Field, SearchQuery
from shortlist.v1 import collection_service_pb2 as pb
from shortlist.v1 import collection_service_pb2_grpc as pb_grpc
from shortlist.v1 import error_pb2, generation_pb2
from shortlist_server.inference.base import QueryText
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.testing import TestServer, server

WORDS = ["owl", "lynx", "camel", "whale", "krill", "snow", "desert", "forest", "river", "night"]
NOTES = [
    Document(id=f"n{i}", text=f"note{i} {WORDS[i % 10]} {WORDS[i * 3 % 7]}", metadata={"half": i % 2})
    for i in range(40)
]
SETTINGS: dict[str, Any] = {
    "embedders": ("first=hashing:64", "second=hashing:96"),
    "sampled_queries": 100,
    "metrics_listen": "127.0.0.1:0",
    "slow_search_seconds": 0.000001,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    with server(tmp_path_factory.mktemp("data"), **SETTINGS) as running:
        yield running


@pytest.fixture
def client(running: TestServer) -> Iterator[Client]:
    with Client(running.target) as client:
        yield client


@pytest.fixture
def notes(client: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """A collection of one generation."""
    name = f"c{abs(hash(request.node.nodeid)) % 10**12}"
    client.create_collection(name, CollectionConfig(embedder="first", filterable_fields=("half",)))
    assert client.ingest(name, NOTES).finish().durable == len(NOTES)
    yield name
    client.delete_collection(name)


@pytest.fixture
def two(client: Client, notes: str) -> str:
    """A collection of two complete generations, of which the first serves."""
    assert client.reindex(notes, embedder="second").number == 2
    return notes


def cosine(engine: HashingEmbedder, query: str, text: str) -> float:
    (asked,) = engine.embed_queries([QueryText(text=query)])
    (stored,) = engine.embed_passages([text], token_vectors=False)
    return float(np.dot(asked.vector, stored.vector))


# ---------------------------------------------------------------------------------------------------------- searches


def test_a_search_of_an_unknown_generation_is_refused_and_fails_alone_in_a_batch(client: Client, two: str) -> None:
    with pytest.raises(shortlist.GenerationNotFound) as refused:
        client.search(two, "owl", generation=7)
    assert refused.value.reason == "GENERATION_NOT_FOUND"
    queries = [SearchQuery(collection=two, text="owl", generation=number) for number in (0, 2, 7, 1)]
    with pytest.raises(shortlist.InvalidArgument):
        client.search(two, "owl", generation=-1)
    results = client.batch_search(queries)
    assert [one.report.generation for one in results if isinstance(one, shortlist.SearchResult)] == [1, 2, 1]
    assert isinstance(results[2], shortlist.GenerationNotFound)


def test_explanations_and_the_log_of_slow_searches_name_the_generation(
    client: Client, two: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "shortlist_server.slow"):
        found = client.search(two, "owl", generation=2, explain=True)
    assert found.report.generation == 2
    assert found.explanation is not None and found.explanation.candidates
    (record,) = [record for record in caplog.records if record.name == "shortlist_server.slow"]
    assert record.fields["generation"] == 2  # type: ignore[attr-defined]


def test_the_reranker_reads_the_token_vectors_of_the_generation(client: Client, two: str) -> None:
    for number in (1, 2):
        found = client.search(two, "owl", generation=number, rerank=True)
        assert found.report.reranked > 0 and not found.report.degraded
        assert all(hit.rerank is not None for hit in found)


def test_after_a_switch_between_revisions_of_one_model_no_query_embedding_is_reused(tmp_path: Path) -> None:
    """Both revisions have the same name, the same dimension and the same queries."""
    old, new = HashingEmbedder("it", 64, 1), HashingEmbedder("it", 64, 2)
    with server(tmp_path, embedders=("it=hashing:64",)) as running, Client(running.target) as client:
        client.create_collection("notes", CollectionConfig(embedder="it"))
        client.ingest("notes", NOTES).finish()
    with server(tmp_path, embedders=("it=hashing:64:2", "it=hashing:64")) as running, Client(running.target) as client:
        for engine in (old, new, old):
            for _ in range(2):
                for query in WORDS[:4]:
                    found = client.search("notes", query, mode="dense", rerank=False)
                    assert found.report.embedder is not None
                    assert found.report.embedder.revision == engine.info.revision
                    for hit in found:
                        assert hit.document is not None and hit.dense is not None
                        assert hit.dense.score == pytest.approx(cosine(engine, query, hit.document.text), abs=1e-4)
            if engine is old and len(client.generations("notes")) == 1:
                assert client.reindex("notes").embedder_revision == new.info.revision
                client.switch_generation("notes")
            else:
                client.roll_back_generation("notes")


# ------------------------------------------------------------------------------------------------------------- calls


def test_a_collection_shows_the_generation_that_serves(client: Client, two: str, running: TestServer) -> None:
    with grpc.insecure_channel(running.target) as channel:
        stub = pb_grpc.CollectionServiceStub(channel)

        def shown() -> tuple[int, str, int]:
            collection = stub.GetCollection(pb.GetCollectionRequest(collection=two), timeout=10).collection
            return collection.generation, collection.config.embedder, collection.config.dimension

        assert shown() == (1, "first", 64)
        client.switch_generation(two)
        assert shown() == (2, "second", 96)
        listed = stub.ListCollections(pb.ListCollectionsRequest(), timeout=10).collections
        assert next(one.generation for one in listed if one.name == two) == 2


def test_a_repeated_roll_back_does_not_roll_forward(client: Client, two: str, running: TestServer) -> None:
    client.switch_generation(two)
    with grpc.insecure_channel(running.target) as channel:
        stub = pb_grpc.CollectionServiceStub(channel)
        request = pb.RollBackGenerationRequest(collection=two, request_id="once")
        answers = [stub.RollBackGeneration(request, timeout=10) for _ in range(3)]
    assert [(one.serving.number, one.former.number) for one in answers] == [(1, 2)] * 3
    assert [one.number for one in client.generations(two) if one.state == "serving"] == [1]


def test_switches_that_cannot_be_are_refused(client: Client, notes: str) -> None:
    refused: list[tuple[type[shortlist.ShortlistError], Any]] = [
        (shortlist.GenerationNotFound, lambda: client.switch_generation(notes)),
        (shortlist.GenerationNotFound, lambda: client.switch_generation(notes, 9)),
        (shortlist.GenerationNotFound, lambda: client.roll_back_generation(notes)),
        (shortlist.GenerationNotReady, lambda: client.drop_generation(notes, 1)),
        (shortlist.GenerationNotFound, lambda: client.drop_generation(notes, 9)),
        (shortlist.CollectionNotFound, lambda: client.switch_generation("absent")),
        (shortlist.CollectionNotFound, lambda: client.generations("absent")),
    ]
    for error, call in refused:
        with pytest.raises(error):
            call()
    again = client.switch_generation(notes, 1)
    assert again.serving.number == 1, "to name the one that serves is no error: the call may be repeated"
    (only,) = client.generations(notes)
    assert (only.number, only.state, only.complete, only.operation) == (1, "serving", True, "")


def test_a_reindex_ends_when_its_generation_or_its_collection_is_dropped(client: Client) -> None:
    many = [Document(id=f"m{i}", text=" ".join(f"word{i * j % 977}" for j in range(300))) for i in range(1500)]
    client.create_collection("large", CollectionConfig(embedder="first"))
    client.ingest("large", many).finish()
    drops: list[Callable[[], None]] = [
        lambda: client.drop_generation("large", 2),
        lambda: client.delete_collection("large"),
    ]
    for drop in drops:
        started = client.start_reindex("large", embedder="second")
        client.pause_operation(started.name)
        drop()
        ended = client.wait_operation(started.name, timeout_seconds=30)
        assert isinstance(ended.error, shortlist.OperationCancelled)


def test_a_reindex_that_ended_before_a_restart_is_found_again(tmp_path: Path) -> None:
    with server(tmp_path, **SETTINGS) as running, Client(running.target) as client:
        client.create_collection("notes", CollectionConfig(embedder="first"))
        client.ingest("notes", NOTES).finish()
        name = client.start_reindex("notes", embedder="second").name
        assert client.wait_operation(name).state == "succeeded"
    with server(tmp_path, **SETTINGS) as running, Client(running.target) as client:
        ended = client.wait_operation(name, timeout_seconds=30)
        assert isinstance(ended.result, shortlist.Generation)
        assert (ended.state, ended.result.number, ended.result.complete) == ("succeeded", 2, True)
        client.switch_generation("notes")
    with (
        server(tmp_path, **SETTINGS) as running,
        Client(running.target) as client,
        pytest.raises(shortlist.OperationNotFound),
    ):
        client.get_operation(name)


def test_the_reindex_of_a_restored_collection_goes_on(tmp_path: Path) -> None:
    many = [Document(id=f"m{i}", text=" ".join(f"word{i * j % 97}" for j in range(100))) for i in range(800)]
    with server(tmp_path, **SETTINGS) as running, Client(running.target) as client:
        client.create_collection("notes", CollectionConfig(embedder="first"))
        client.ingest("notes", many).finish()
        client.pause_operation(client.start_reindex("notes", embedder="second").name)
        client.backup("half")
        client.restore("half", "notes", new_name="restored")
        (_, building) = client.generations("restored")
        assert building.state == "building" and not building.complete
        assert client.get_operation(building.operation).state == "paused", "as it was in the backup"
        client.resume_operation(building.operation)
        assert client.wait_operation(building.operation, timeout_seconds=60).state == "succeeded"
        assert client.switch_generation("restored").serving.embedder == "second"
        assert client.count("restored") == len(many)
        (_, paused) = client.generations("notes")
        assert not paused.complete, "the other collection is still paused"


def test_only_reindexes_pause(client: Client, two: str) -> None:
    started = client.start_compare_generations(two, queries={"q": "owl"}, qrels={"q": {"n0": 1}})
    with pytest.raises(shortlist.OperationNotPausable):
        client.pause_operation(started.name)
    assert client.wait_operation(started.name, timeout_seconds=30).state == "succeeded"


def test_there_is_an_error_reason_for_each_refusal() -> None:
    for reason in ("GENERATION_NOT_FOUND", "GENERATION_NOT_READY", "OPERATION_NOT_PAUSABLE"):
        assert error_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")


# -------------------------------------------------------------------------------------------------------- comparisons


def test_a_comparison_counts_what_the_searches_of_both_generations_find(client: Client, two: str) -> None:
    queries = {f"q{i}": f"{WORDS[i % 10]} {WORDS[i * 7 % 10]}" for i in range(12)}
    qrels = {id: {f"n{i}": 1} for i, id in enumerate(queries)}
    compared = client.compare_generations(two, queries=queries, qrels=qrels)
    found = {
        number: {id: [hit.id for hit in client.search(two, text, generation=number)] for id, text in queries.items()}
        for number in (1, 2)
    }
    overlaps = {id: len(set(found[1][id]) & set(found[2][id])) / 10 for id in queries}
    assert compared.mean_overlap == pytest.approx(np.mean(list(overlaps.values())))
    assert compared.changed_first_hits == sum(found[1][id][:1] != found[2][id][:1] for id in queries)
    moves = compared.moves
    assert moves.same + moves.higher + moves.lower + moves.gone == sum(map(len, found[1].values()))
    assert moves.same == sum(a == b for id in queries for a, b in zip(found[1][id], found[2][id], strict=True))
    for example in compared.examples:
        assert example.overlap == overlaps[example.id]
        assert list(example.serving_ids) == found[1][example.id]
        assert list(example.candidate_ids) == found[2][example.id]
    assert [one.overlap for one in compared.examples] == sorted(one.overlap for one in compared.examples)
    assert compared.degraded_searches == 0
    assert compared.serving_p95_seconds >= compared.serving_median_seconds > 0
    measured = client.evaluate(two, queries, qrels)[0]
    assert compared.rankings["final"].serving == measured.rankings["final"]
    assert list(compared.rankings) == list(measured.rankings)


def test_a_cancelled_comparison_ends_soon(client: Client, two: str) -> None:
    queries = {f"q{i}": WORDS[i % 10] for i in range(3000)}
    started = client.start_compare_generations(two, queries=queries, qrels={id: {"n1": 1} for id in queries})
    client.cancel_operation(started.name)
    ended = client.wait_operation(started.name, timeout_seconds=20)
    assert isinstance(ended.error, shortlist.OperationCancelled)


def test_recent_queries_keep_their_filter_and_are_neither_logged_nor_counted(
    client: Client, two: str, running: TestServer, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "whereabouts of the camel"
    with caplog.at_level(logging.DEBUG):
        client.search(two, secret, filter=Field("half") == 1)
        compared = client.compare_generations(two)
    assert compared.query_count == 1
    ids = {id for one in compared.examples for id in (*one.serving_ids, *one.candidate_ids)}
    assert all(int(id[1:]) % 2 for id in ids), "the comparison's searches had the query's filter"
    assert "whereabouts" not in caplog.text
    page = urllib.request.urlopen(f"http://127.0.0.1:{running._server.metrics_port}/metrics", timeout=10).read()
    assert b"whereabouts" not in page


def test_recent_queries_are_forgotten_with_their_collection(client: Client, two: str) -> None:
    client.search(two, "owl")
    assert client.compare_generations(two).query_count == 1
    config = CollectionConfig(embedder="first")
    client.delete_collection(two)
    client.create_collection(two, config)
    client.ingest(two, NOTES).finish()
    client.reindex(two, embedder="second")
    with pytest.raises(shortlist.FailedPrecondition, match="within the last hour"):
        client.compare_generations(two)


# ------------------------------------------------------------------------------------------------------------ metrics


def test_the_metrics_show_which_generation_serves_and_how_far_the_next_one_is(
    client: Client, two: str, running: TestServer
) -> None:
    def page() -> str:
        url = f"http://127.0.0.1:{running._server.metrics_port}/metrics"
        return urllib.request.urlopen(url, timeout=10).read().decode()  # type: ignore[no-any-return]

    shown = page()
    assert f'shortlist_collection_generation{{collection="{two}"}} 1.0' in shown
    assert f'shortlist_collection_generation_passages{{collection="{two}",state="building"}} 40.0' in shown
    assert f'shortlist_reindex_documents{{collection="{two}"}} 40.0' in shown
    assert f'shortlist_reindex_paused{{collection="{two}"}} 0.0' in shown
    client.switch_generation(two)
    shown = page()
    assert f'shortlist_collection_generation{{collection="{two}"}} 2.0' in shown
    assert f'shortlist_collection_generation_passages{{collection="{two}",state="former"}} 40.0' in shown
    assert f'shortlist_reindex_documents{{collection="{two}"}}' not in shown


def test_every_state_of_a_generation_has_a_name_in_the_contract() -> None:
    from shortlist_server.domain import GenerationState

    names = {
        name.removeprefix("GENERATION_STATE_") for name in generation_pb2.GenerationState.DESCRIPTOR.values_by_name
    }
    assert names == {state.name for state in GenerationState} | {"UNSPECIFIED"}


def test_a_server_without_the_model_of_a_collection_still_finds_words_and_says_so(tmp_path: Path) -> None:
    with server(tmp_path, embedders=("it=hashing:64",)) as running, Client(running.target) as client:
        client.create_collection("notes", CollectionConfig(embedder="it"))
        client.ingest("notes", NOTES).finish()
    for embedders in (("it=hashing:64:2",), ("other=hashing:64",)):
        with server(tmp_path, embedders=embedders) as running, Client(running.target) as client:
            found = client.search("notes", "owl")
            assert len(found) and found.report.mode == "lexical"
            assert [one.kind for one in found.report.degradations] == ["embedder_missing"]
            with pytest.raises((shortlist.ModelMismatch, shortlist.ModelNotFound)):
                client.search("notes", "owl", mode="dense")
            assert client.search("notes", vector=[1.0] * 64).report.generation == 1
            assert client.get("notes", ["n1"])
