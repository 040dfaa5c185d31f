"""The ``Evaluate`` call: a live collection measured by judged queries, in both clients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypedDict

import pytest

from shortlist import (
    AsyncClient,
    Client,
    CollectionConfig,
    CollectionNotFound,
    EvaluateProgress,
    InvalidArgument,
    ModelVersion,
    Rerank,
    RetrievalMode,
    SearchDefaults,
)
from shortlist_server.ranking.measures import judge, judge_each

CORPUS = {
    "owl": "The owl hunts mice at night and turns its head without moving its eyes.",
    "whale": "The blue whale is the largest animal; it feeds on krill in cold seas.",
    "camel": "The camel stores fat in its hump and walks for days without water.",
    "lynx": "The lynx hunts hares at night in the snow and has tufts on its ears.",
}
QUERIES = {"q1": "which bird hunts mice at night", "q2": "walks for days without water", "q3": "animal of cold seas"}
QRELS = {"q1": {"owl": 2, "lynx": 1}, "q2": {"camel": 1}, "q3": {"whale": 1, "camel": 0}}


class Asked(TypedDict, total=False):
    """What a search is asked beyond its text."""

    mode: RetrievalMode
    rerank: bool


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    with Client(target) as connected:
        if "animals" not in {collection.name for collection in connected.list_collections()}:
            connected.create_collection("animals")
            connected.ingest("animals", [{"id": id, "text": text} for id, text in CORPUS.items()]).finish()
        yield connected


def test_the_figures_are_those_of_the_same_searches_judged_by_the_command_line(client: Client) -> None:
    (report,) = client.evaluate("animals", QUERIES, QRELS, include_queries=True)
    asked: dict[str, Asked] = {
        "dense": {"mode": "dense", "rerank": False},
        "lexical": {"mode": "lexical", "rerank": False},
        "fused": {"rerank": False},
        "final": {},
    }
    for ranking, settings in asked.items():
        found = {
            query: [hit.id for hit in client.search("animals", text, limit=100, **settings)]
            for query, text in QUERIES.items()
        }
        means, each = judge(found, QRELS), judge_each(found, QRELS)
        for measure, mean in means.items():
            assert getattr(report.rankings[ranking], measure) == pytest.approx(mean)
            for query in QUERIES:
                assert getattr(report.queries[query][ranking], measure) == pytest.approx(each[query][measure])
    assert report.sequence == client.get_collection("animals").sequence
    info = client.server_info()
    embedder, reranker = info.embedders[0], info.rerankers[0]
    assert report.embedder == ModelVersion(name=embedder.name, revision=embedder.revision)
    assert report.rerankers == (ModelVersion(name=reranker.name, revision=reranker.revision),)
    assert report.degraded_searches == 0


def test_each_of_the_settings_has_a_report_and_progress_is_told(client: Client) -> None:
    told: list[EvaluateProgress] = []
    settings = [SearchDefaults(), SearchDefaults(mode="lexical", rerank=Rerank(enabled=False))]
    reports = client.evaluate("animals", QUERIES, QRELS, settings=settings, progress=told.append)
    assert [report.setting for report in reports] == [0, 1]
    assert reports[1].rankings["final"] == reports[1].rankings["lexical"] == reports[0].rankings["lexical"]
    assert not reports[0].queries
    assert told and all(at.total_searches == 2 * 4 * 3 and at.done_searches > 0 for at in told)


def test_a_collection_without_an_embedder_has_the_rankings_it_can_have(client: Client) -> None:
    client.create_collection("words", CollectionConfig(embedder="none", dimension=2))
    rows = [{"id": id, "text": text, "vector": [1.0, 0.0]} for id, text in CORPUS.items()]
    client.ingest("words", rows).finish()
    (report,) = client.evaluate("words", QUERIES, QRELS)
    assert set(report.rankings) == {"lexical", "final"}
    assert report.rankings["lexical"].mrr_at_10 == 1


async def test_the_client_for_asyncio_has_the_same_answer(client: Client, target: str) -> None:
    async with AsyncClient(target) as connected:
        assert await connected.evaluate("animals", QUERIES, QRELS) == client.evaluate("animals", QUERIES, QRELS)


@pytest.mark.parametrize(
    ("queries", "qrels", "settings", "field"),
    [
        ({}, {}, [], "queries"),
        ({"q": " "}, {"q": {"owl": 1}}, [], "queries[0].text"),
        ({"q": "x"}, {"q": {"owl": 0}}, [], "queries[0].qrels"),
        ({"q": "x"}, {"q": {"owl": 101}}, [], "queries[0].qrels[0].grade"),
        ({"q": "x"}, {}, [], "qrels"),
        ({"q": "x"}, {"q": {"owl": 1}}, [SearchDefaults(rerank=Rerank(weight=2.0))], "settings[0].rerank.weight"),
        ({"q": "x"}, {"q": {"owl": 1}}, [SearchDefaults()] * 33, "settings"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_field(
    client: Client,
    queries: dict[str, str],
    qrels: dict[str, dict[str, int]],
    settings: list[SearchDefaults],
    field: str,
) -> None:
    with pytest.raises(InvalidArgument) as error:
        client.evaluate("animals", queries, qrels, settings=settings)
    assert error.value.field == field


def test_a_collection_that_is_not_there_is_an_error(client: Client) -> None:
    with pytest.raises(CollectionNotFound):
        client.evaluate("nowhere", QUERIES, QRELS)


def test_an_evaluation_is_cancelled_within_a_second(client: Client) -> None:
    many = {f"q{number}": "hunts at night" for number in range(5000)}
    qrels = {query: {"owl": 1} for query in many}
    running, waiting = (client.start_evaluate("animals", many, qrels) for _ in range(2))
    while client.get_operation(running.name).progress is None:
        pass
    assert client.get_operation(waiting.name).state == "pending"
    begin = time.monotonic()
    for one in (waiting, running):
        client.cancel_operation(one.name)
        assert client.wait_operation(one.name).state == "cancelled"
    assert time.monotonic() - begin < 1


def test_measures_of_each_query_that_no_message_could_hold_are_refused(client: Client) -> None:
    many = {f"q{number}": "hunts at night" for number in range(10_000)}
    qrels = {query: {"owl": 1} for query in many}
    with pytest.raises(InvalidArgument) as error:
        client.evaluate("animals", many, qrels, settings=[SearchDefaults()] * 20, include_queries=True)
    assert error.value.field == "include_queries"


def test_an_evaluation_whose_caller_is_gone_makes_room_for_the_next(client: Client) -> None:
    def give_up(at: EvaluateProgress) -> None:
        raise KeyError("enough")

    many = {f"q{number}": "hunts at night" for number in range(500)}
    with pytest.raises(KeyError):
        client.evaluate("animals", many, {query: {"owl": 1} for query in many}, progress=give_up)
    (report,) = client.evaluate("animals", QUERIES, QRELS, timeout_seconds=20)
    assert report.rankings["lexical"].mrr_at_10 > 0
