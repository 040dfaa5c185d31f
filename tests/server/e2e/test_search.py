"""Search through a real server: what is found, in which order, with which account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from shortlist.v1 import (
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_pb2,
    document_service_pb2,
    document_service_pb2_grpc,
    filter_pb2,
    search_pb2,
    search_service_pb2,
    search_service_pb2_grpc,
)

ANIMALS = {
    "owl": "The owl hunts mice at night and turns its head without moving its eyes.",
    "mouse": "A mouse eats grain, and cheese only when nothing better is there.",
    "whale": "The blue whale is the largest animal; it feeds on krill in cold seas.",
    "krill": "Krill are small crustaceans that swarm in cold seas and feed on algae.",
    "bat": "A bat hunts insects at night by the echo of its own calls.",
    "camel": "The camel stores fat in its hump and walks for days without water.",
}


class Service:
    """Stubs of one server, with short names for what the tests do."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.search_stub = search_service_pb2_grpc.SearchServiceStub(channel)
        self.documents = document_service_pb2_grpc.DocumentServiceStub(channel)
        self.collections = collection_service_pb2_grpc.CollectionServiceStub(channel)

    def create(self, name: str, **config: Any) -> None:
        self.collections.CreateCollection(
            collection_service_pb2.CreateCollectionRequest(
                collection=name, config=collection_pb2.CollectionConfig(**config)
            ),
            timeout=10,
        )

    def apply(self, collection: str, *operations: document_service_pb2.IngestOperation, **start: Any) -> list[Any]:
        for position, operation in enumerate(operations, 1):
            operation.position = operation.position or position
        requests = [
            document_service_pb2.IngestRequest(start=document_service_pb2.IngestStart(collection=collection, **start)),
            document_service_pb2.IngestRequest(batch=document_service_pb2.IngestBatch(operations=operations)),
        ]
        responses = self.documents.Ingest(iter(requests), timeout=30)
        return [ack for response in responses for ack in response.acks.acks]

    def put(self, collection: str, id: str, text: str = "", **fields: Any) -> Any:
        return self.apply(collection, upsert(id, text, **fields))[0]

    def search(self, collection: str, text: str = "", **fields: Any) -> search_service_pb2.SearchResponse:
        query = fields.pop("query", None) or search_pb2.Query(text=text)
        return self.search_stub.Search(
            search_service_pb2.SearchRequest(collection=collection, query=query, **fields), timeout=10
        )

    def found(self, collection: str, text: str, **fields: Any) -> list[str]:
        return [hit.id for hit in self.search(collection, text, **fields).hits]


def upsert(id: str, text: str = "", *, metadata: dict[str, Any] | None = None, **fields: Any) -> Any:
    document = document_pb2.Document(id=id, text=text, **fields)
    document.metadata.update(metadata or {})
    return document_service_pb2.IngestOperation(upsert=document)


def equals(field: str, value: str) -> filter_pb2.Filter:
    return filter_pb2.Filter(equals=filter_pb2.Equals(field=field, value=filter_pb2.Scalar(string_value=value)))


@pytest.fixture(scope="module")
def service(target: str) -> Iterator[Service]:
    with grpc.insecure_channel(target) as channel:
        service = Service(channel)
        service.create("animals", filterable_fields=["medium"])
        sea = {"whale", "krill"}
        acks = service.apply(
            "animals",
            *[
                upsert(id, text, title=id.title(), metadata={"medium": "sea" if id in sea else "land", "n": n})
                for n, (id, text) in enumerate(ANIMALS.items())
            ],
        )
        assert [ack.status for ack in acks] == [document_service_pb2.ACK_STATUS_DURABLE] * len(ANIMALS)
        yield service


def test_the_best_document_comes_first_with_the_account_of_every_stage(service: Service) -> None:
    answer = service.search("animals", "what hunts at night and turns its head")
    assert answer.hits[0].id == "owl"
    assert [hit.rank for hit in answer.hits] == list(range(1, len(answer.hits) + 1))
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)
    best = answer.hits[0]
    (rerank,) = best.reranks
    assert (best.dense.rank, best.lexical.rank, best.fused.rank, rerank.rank) == (1, 1, 1, 1)
    assert (rerank.stage, rerank.blended, rerank.blended_rank) == (1, best.score, best.rank)
    assert 0 < best.dense.score <= 1
    assert best.lexical.score > 0
    assert best.document.text == ANIMALS["owl"]
    assert best.document.metadata["medium"] == "land"
    report = answer.report
    assert report.mode == search_pb2.RETRIEVAL_MODE_HYBRID
    assert report.dense_candidates == len(ANIMALS)
    (stage,) = report.rerank_stages
    assert (stage.stage, stage.depth, stage.reranked) == (1, 50, len(ANIMALS))
    collection = service.collections.GetCollection(
        collection_service_pb2.GetCollectionRequest(collection="animals"), timeout=10
    ).collection
    assert report.embedder == search_pb2.ModelVersion(name="hashing", revision=collection.embedder_revision)
    assert stage.model.name == "late-interaction"
    assert not report.degraded
    for name in ("total", "embed", "dense", "lexical", "fuse", "fetch", "rerank", "group"):
        assert getattr(report.timings, name).ToNanoseconds() > 0, name
    assert (stage.fetch, stage.rerank) == (report.timings.fetch, report.timings.rerank)


def test_each_mode_asks_its_own_index(service: Service) -> None:
    plain = search_pb2.Rerank(enabled=False)
    dense = service.search("animals", "krill", mode=search_pb2.RETRIEVAL_MODE_DENSE, rerank=plain)
    assert len(dense.hits) == len(ANIMALS)
    assert not dense.hits[0].HasField("lexical")
    lexical = service.search("animals", "krill", mode=search_pb2.RETRIEVAL_MODE_LEXICAL, rerank=plain)
    assert {hit.id for hit in lexical.hits} == {"whale", "krill"}
    assert not lexical.hits[0].HasField("dense")
    assert not lexical.hits[0].reranks
    assert lexical.report.dense_strategy == search_pb2.DENSE_STRATEGY_UNSPECIFIED


def test_reranking_works_on_what_the_words_alone_found(service: Service) -> None:
    answer = service.search("animals", "krill", mode=search_pb2.RETRIEVAL_MODE_LEXICAL)
    assert {hit.id for hit in answer.hits} == {"whale", "krill"}
    assert all(len(hit.reranks) == 1 for hit in answer.hits)


def test_the_length_of_the_answer_does_not_change_its_order(service: Service) -> None:
    long = service.found("animals", "cold seas", limit=6)
    assert service.found("animals", "cold seas", limit=2) == long[:2]
    assert service.found("animals", "cold seas", limit=2, offset=2) == long[2:4]
    page = service.search("animals", "cold seas", limit=2, offset=2)
    assert [hit.rank for hit in page.hits] == [3, 4]


def test_rerank_depth_is_not_the_answers_length(service: Service) -> None:
    answer = service.search("animals", "night", limit=6, rerank=search_pb2.Rerank(depth=2))
    assert [stage.reranked for stage in answer.report.rerank_stages] == [2]
    assert [len(hit.reranks) for hit in answer.hits] == [1, 1, 0, 0, 0, 0]
    assert [hit.score for hit in answer.hits] == sorted((hit.score for hit in answer.hits), reverse=True)


def test_a_filter_keeps_to_its_matches_and_gives_all_of_them(service: Service) -> None:
    answer = service.search("animals", "hunts mice at night", filter=equals("medium", "sea"))
    assert {hit.id for hit in answer.hits} == {"whale", "krill"}
    assert answer.report.filter_matches == 2
    assert service.found("animals", "owl", filter=equals("medium", "air")) == []


def test_only_what_was_asked_for_is_returned(service: Service) -> None:
    bare = service.search("animals", "owl", include=document_pb2.Include(text=False, metadata=False)).hits[0]
    assert (bare.document.text, bare.document.title, len(bare.document.metadata)) == ("", "", 0)
    assert bare.id == bare.document.id == "owl"
    full = service.search("animals", "owl", include=document_pb2.Include(text=False, vectors=True)).hits[0]
    assert full.document.text == ""
    passage = full.passages[0]
    assert passage.passage.text == ANIMALS["owl"]
    assert sum(value * value for value in passage.passage.vector) == pytest.approx(1, abs=1e-4)
    assert passage.HasField("dense_score")
    assert dict(passage.rerank_scores) == {1: full.reranks[0].score}


def test_hits_below_the_threshold_are_left_out(service: Service) -> None:
    all_scores = [hit.score for hit in service.search("animals", "night").hits]
    kept = service.search("animals", "night", min_score=all_scores[1]).hits
    assert [hit.score for hit in kept] == all_scores[:2]


def test_a_query_can_be_a_vector(service: Service) -> None:
    stored = service.documents.Get(
        document_service_pb2.GetRequest(
            collection="animals", ids=["camel"], include=document_pb2.Include(vectors=True)
        ),
        timeout=10,
    )
    vector = [3 * value for value in stored.documents[0].passages[0].vector]
    answer = service.search("animals", query=search_pb2.Query(vector=vector))
    assert answer.hits[0].id == "camel"
    assert answer.hits[0].dense.score == pytest.approx(1, abs=1e-5)
    assert answer.report.mode == search_pb2.RETRIEVAL_MODE_DENSE
    assert not answer.hits[0].reranks


def test_a_document_is_found_at_once_after_its_ack_and_only_in_its_last_version(service: Service) -> None:
    service.create("versions")
    first = service.put("versions", "d", "a zebra with stripes")
    assert service.found("versions", "zebra", min_sequence=first.sequence) == ["d"]
    second = service.put("versions", "d", "an okapi in the forest")
    assert second.sequence > first.sequence
    lexical = {"mode": search_pb2.RETRIEVAL_MODE_LEXICAL}
    assert service.found("versions", "zebra", **lexical) == []
    hit = service.search("versions", "okapi").hits[0]
    assert (hit.document.text, hit.sequence) == ("an okapi in the forest", second.sequence)
    deleted = service.documents.Delete(
        document_service_pb2.DeleteRequest(
            collection="versions", ids=document_service_pb2.DocumentIds(ids=["d", "absent"])
        ),
        timeout=10,
    )
    assert deleted.deleted_count == 1
    assert service.found("versions", "okapi", min_sequence=deleted.sequence) == []


def test_a_sequence_that_is_not_reached_is_waited_for_and_then_refused(service: Service) -> None:
    request = search_service_pb2.SearchRequest(
        collection="animals", query=search_pb2.Query(text="owl"), min_sequence=10**6
    )
    with pytest.raises(grpc.RpcError) as caught:
        service.search_stub.Search(request, timeout=0.4)
    assert caught.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_long_documents_are_found_by_any_of_their_passages(service: Service) -> None:
    service.create("long", chunking=collection_pb2.Chunking(max_tokens=32))
    filler = "Nothing of interest is said in this sentence about the weather. " * 30
    ack = service.put("long", "book", f"{filler}A pangolin curls into a ball. {filler}")
    service.put("long", "other", filler)
    assert ack.passages > 10
    hit = service.search("long", "pangolin curls", include=document_pb2.Include(passages=True)).hits[0]
    assert hit.id == "book"
    assert "pangolin" in hit.passages[0].passage.text
    passage = hit.passages[0].passage
    assert hit.document.text[passage.start : passage.end] == passage.text


@pytest.mark.parametrize(("asked", "size", "overlap"), [({}, 128, 16), ({"max_tokens": 64}, 64, 8)])
def test_passages_overlap_by_an_eighth_unless_told_otherwise(
    service: Service, asked: dict[str, int], size: int, overlap: int
) -> None:
    name = f"overlap-{size}"
    service.create(name, chunking=collection_pb2.Chunking(**asked))
    request = collection_service_pb2.GetCollectionRequest(collection=name)
    made = service.collections.GetCollection(request, timeout=10).collection.config.chunking
    assert (made.max_tokens, made.overlap_tokens) == (size, overlap)


def test_unchanged_content_is_not_written_again(service: Service) -> None:
    service.create("again")
    first = service.put("again", "d", "the same text")
    assert service.put("again", "d", "the same text").status == document_service_pb2.ACK_STATUS_UNCHANGED
    assert service.put("again", "d", "the same text", title="T").sequence > first.sequence


def test_the_same_id_twice_in_one_batch_keeps_the_last(service: Service) -> None:
    service.create("twice")
    acks = service.apply("twice", upsert("d", "first text"), upsert("d", "second text"), upsert("e", "third"))
    assert [ack.status for ack in acks] == [
        document_service_pb2.ACK_STATUS_SUPERSEDED,
        document_service_pb2.ACK_STATUS_DURABLE,
        document_service_pb2.ACK_STATUS_DURABLE,
    ]
    assert service.search("twice", "text").hits[0].document.text == "second text"


def test_a_batch_can_go_back_to_the_content_that_is_stored(service: Service) -> None:
    service.create("back")
    service.put("back", "d", "first text")
    service.apply("back", upsert("d", "second text"), upsert("d", "first text"))
    assert service.search("back", "text").hits[0].document.text == "first text"


def test_a_named_stream_remembers_where_it_was_and_replays_have_no_effect(service: Service) -> None:
    service.create("stream")
    service.apply("stream", upsert("a", "one"), upsert("b", "two"), stream="s")
    acks = service.apply("stream", upsert("a", "replaced"), upsert("b", "two"), upsert("c", "three"), stream="s")
    replayed, durable = document_service_pb2.ACK_STATUS_REPLAYED, document_service_pb2.ACK_STATUS_DURABLE
    assert [ack.status for ack in acks] == [replayed, replayed, durable]
    assert service.search("stream", "one").hits[0].document.text == "one"


def test_a_dry_run_counts_and_writes_nothing(service: Service) -> None:
    service.create("dry")
    ack = service.apply("dry", upsert("a", "some words to count"), dry_run=True)[0]
    assert ack.status == document_service_pb2.ACK_STATUS_VALID
    assert ack.tokens > 3
    assert ack.passages == 1
    assert ack.HasField("estimated_time")
    assert service.documents.Count(document_service_pb2.CountRequest(collection="dry"), timeout=10).count == 0


def test_documents_are_listed_in_pages_and_counted(service: Service) -> None:
    seen: list[str] = []
    token = ""
    while True:
        page = service.documents.List(
            document_service_pb2.ListRequest(collection="animals", page_size=4, page_token=token), timeout=10
        )
        seen += [stored.document.id for stored in page.documents]
        token = page.next_page_token
        if not token:
            break
    assert seen == list(ANIMALS)
    count = service.documents.Count(
        document_service_pb2.CountRequest(collection="animals", filter=equals("medium", "sea")), timeout=10
    )
    assert count.count == 2


def test_a_collection_shows_its_settings_and_takes_new_search_defaults(service: Service) -> None:
    service.create("tuned")
    defaults = collection_pb2.SearchDefaults(
        mode=search_pb2.RETRIEVAL_MODE_LEXICAL, rerank=search_pb2.Rerank(enabled=False)
    )
    service.collections.UpdateCollection(
        collection_service_pb2.UpdateCollectionRequest(collection="tuned", search_defaults=defaults), timeout=10
    )
    shown = service.collections.GetCollection(
        collection_service_pb2.GetCollectionRequest(collection="tuned"), timeout=10
    ).collection
    assert shown.config.search_defaults.mode == search_pb2.RETRIEVAL_MODE_LEXICAL
    assert shown.config.search_defaults.rerank.enabled is False
    assert not shown.config.search_defaults.candidates.HasField("dense")
    effective = shown.effective_search_defaults
    assert effective.mode == search_pb2.RETRIEVAL_MODE_LEXICAL
    assert effective.candidates.dense == 100
    assert (effective.rerank.enabled, effective.rerank.model) == (False, "late-interaction")
    assert shown.config.embedder == "hashing"
    assert shown.config.dimension > 0
    service.put("tuned", "d", "some words")
    assert service.search("tuned", "words").report.mode == search_pb2.RETRIEVAL_MODE_LEXICAL


def test_a_collection_of_client_made_vectors_needs_no_embedder(service: Service) -> None:
    service.create("vectors", embedder="none", dimension=3)
    service.apply(
        "vectors",
        upsert("x", "east", vector=[1, 0, 0]),
        upsert("y", "north", vector=[0, 2, 0]),
        upsert("z", vector=[0, 0, 1]),
    )
    answer = service.search("vectors", query=search_pb2.Query(vector=[0.1, 0.9, 0]))
    assert [hit.id for hit in answer.hits] == ["y", "x", "z"]
    assert service.found("vectors", "north") == ["y"]
    both = service.search("vectors", query=search_pb2.Query(text="east", vector=[0, 1, 0]))
    assert {hit.id for hit in both.hits} == {"x", "y", "z"}
    assert both.report.mode == search_pb2.RETRIEVAL_MODE_HYBRID


def test_words_alone_give_passages_too(service: Service) -> None:
    hit = service.search(
        "animals",
        "krill",
        mode=search_pb2.RETRIEVAL_MODE_LEXICAL,
        rerank=search_pb2.Rerank(enabled=False),
        include=document_pb2.Include(passages=True),
    ).hits[0]
    assert hit.passages[0].passage.text == ANIMALS[hit.id]
    assert not hit.passages[0].HasField("dense_score")


def test_a_second_stage_without_time_leaves_the_order_of_the_first_and_says_so(service: Service) -> None:
    plain = service.found("animals", "hunts at night", rerank=search_pb2.Rerank(enabled=False))
    answer = service.search("animals", "hunts at night", rerank=search_pb2.Rerank(deadline_share=1e-9))
    assert [hit.id for hit in answer.hits] == plain
    assert answer.report.degraded
    (lost,) = answer.report.degradations
    assert (lost.kind, lost.stage) == (search_pb2.DEGRADATION_KIND_RERANK_SKIPPED, 1)
    assert not answer.hits[0].reranks


def test_a_caller_can_ask_to_fail_rather_than_to_go_without_the_second_stage(service: Service) -> None:
    strict = search_pb2.Rerank(deadline_share=1e-9, on_failure=search_pb2.RERANK_FAILURE_POLICY_FAIL)
    with pytest.raises(grpc.RpcError) as caught:
        service.search("animals", "hunts at night", rerank=strict)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
