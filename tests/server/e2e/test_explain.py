"""The full account of a search: every candidate, once, with what each stage made of it and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from shortlist import Client, Document
from shortlist.v1 import search_pb2 as pb
from shortlist.v1 import search_service_pb2, search_service_pb2_grpc

RETURNED, SKIPPED = pb.CANDIDATE_OUTCOME_RETURNED, pb.CANDIDATE_OUTCOME_SKIPPED
SCORED, BEYOND_DEPTH = pb.RERANK_OUTCOME_SCORED, pb.RERANK_OUTCOME_BEYOND_DEPTH
BEYOND, BELOW = pb.CANDIDATE_OUTCOME_BEYOND_LIMIT, pb.CANDIDATE_OUTCOME_BELOW_MIN_SCORE


@pytest.fixture(scope="module")
def stub(target: str) -> Iterator[Any]:
    with Client(target) as client:
        client.create_collection("docs")
        texts = [f"owl {'bird ' * (i % 5)}number {i}" for i in range(60)]
        documents = [Document(id=f"d{i}", text=text) for i, text in enumerate(texts)]
        client.ingest("docs", documents).finish()
    with grpc.insecure_channel(target) as channel:
        yield search_service_pb2_grpc.SearchServiceStub(channel)


def search(stub: Any, **fields: Any) -> search_service_pb2.SearchResponse:
    fields = {"query": pb.Query(text="owl bird"), "explain": True, **fields}
    request = search_service_pb2.SearchRequest(collection="docs", **fields)
    response: search_service_pb2.SearchResponse = stub.Search(request, timeout=10)
    return response


def test_without_being_asked_a_search_explains_nothing(stub: Any) -> None:
    assert not search(stub, explain=False).HasField("explanation")


def test_every_candidate_is_there_once_in_the_order_of_the_final_ranking(stub: Any) -> None:
    answer = search(stub, limit=5, rerank=pb.Rerank(depth=20))
    candidates = answer.explanation.candidates
    assert len(candidates) == answer.report.fused_candidates == len({candidate.id for candidate in candidates})
    assert [candidate.rank for candidate in candidates] == list(range(1, len(candidates) + 1))
    scores = [candidate.score for candidate in candidates]
    assert scores == sorted(scores, reverse=True)
    (stage,) = answer.report.rerank_stages
    assert sum(len(candidate.reranks) for candidate in candidates) == stage.reranked == stage.depth == 20


def test_what_an_explanation_says_of_a_hit_is_what_the_hit_says(stub: Any) -> None:
    answer = search(stub, limit=5)
    for hit, candidate in zip(answer.hits, answer.explanation.candidates, strict=False):
        assert (hit.id, hit.rank, hit.score) == (candidate.id, candidate.rank, candidate.score)
        assert (hit.dense, hit.lexical, hit.fused, list(hit.reranks)) == (
            candidate.dense,
            candidate.lexical,
            candidate.fused,
            list(candidate.reranks),
        )


def test_every_candidate_says_where_it_was_cut(stub: Any) -> None:
    every = search(stub, limit=60)
    worst = every.hits[9].score
    answer = search(stub, limit=4, offset=3, min_score=worst)
    outcomes = [candidate.outcome for candidate in answer.explanation.candidates]
    good = sum(hit.score >= worst for hit in every.hits)
    assert outcomes == [SKIPPED] * 3 + [RETURNED] * 4 + [BEYOND] * (good - 7) + [BELOW] * (len(outcomes) - good)
    returned = [candidate.id for candidate in answer.explanation.candidates if candidate.outcome == RETURNED]
    assert returned == [hit.id for hit in answer.hits]


def test_the_settings_are_those_that_were_used(stub: Any) -> None:
    fusion = pb.Fusion(method=pb.FUSION_METHOD_RRF, rrf_k=7)
    answer = search(stub, fusion=fusion, rerank=pb.Rerank(enabled=False), candidates=pb.Candidates(dense=30))
    said = answer.explanation
    assert (said.fusion_method, said.rrf_k, said.dense_candidates) == (pb.FUSION_METHOD_RRF, 7, 30)
    assert not answer.report.rerank_stages
    (stage,) = search(stub, rerank=pb.Rerank(depth=7, weight=0.25)).report.rerank_stages
    assert (stage.depth, stage.weight) == (7, 0.25)


def test_every_candidate_says_what_a_rerank_stage_did_with_it(stub: Any) -> None:
    said = search(stub, rerank=pb.Rerank(depth=20)).explanation
    by_fusion = sorted(said.candidates, key=lambda candidate: candidate.fused.rank)
    assert [list(candidate.rerank_outcomes) for candidate in by_fusion] == [[SCORED]] * 20 + [[BEYOND_DEPTH]] * (
        len(by_fusion) - 20
    )
    late = search(stub, rerank=pb.Rerank(depth=20, deadline_share=1e-9)).explanation
    assert {one for candidate in late.candidates[:20] for one in candidate.rerank_outcomes} == {
        pb.RERANK_OUTCOME_OUT_OF_TIME
    }
    assert late.candidates[20].rerank_outcomes == [BEYOND_DEPTH]
    without = search(stub, rerank=pb.Rerank(enabled=False)).explanation
    assert not any(candidate.rerank_outcomes for candidate in without.candidates)


def test_a_candidate_without_token_vectors_had_nothing_for_the_reranker_to_read(target: str, stub: Any) -> None:
    with Client(target) as client:
        client.create_collection("mixed")
        vector = [1.0] + [0.0] * 255
        client.ingest("mixed", [{"id": "own", "text": "owl", "vector": vector}, {"id": "made", "text": "owl"}]).finish()
    request = search_service_pb2.SearchRequest(collection="mixed", query=pb.Query(text="owl"), explain=True)
    outcomes = {one.id: list(one.rerank_outcomes) for one in stub.Search(request, timeout=10).explanation.candidates}
    assert outcomes == {"own": [pb.RERANK_OUTCOME_NOTHING_TO_READ], "made": [SCORED]}


def test_how_the_dense_index_was_asked_is_told_with_what_was_expected(stub: Any) -> None:
    (growing,) = search(stub, candidates=pb.Candidates(dense=7)).explanation.dense_sources
    assert (growing.name, growing.passages, growing.HasField("matches"), growing.ef, growing.found) == (
        "growing",
        60,
        False,
        0,
        10,
    )
    assert growing.strategy == pb.DENSE_STRATEGY_EXACT
    said = search(stub, mode=pb.RETRIEVAL_MODE_LEXICAL).explanation
    assert (said.dense_passages, len(said.dense_sources)) == (0, 0)


def test_texts_are_told_only_when_they_are_asked_for(stub: Any) -> None:
    assert not search(stub).explanation.HasField("texts")
    answer = search(stub, explain=False, explain_texts=True, rerank=pb.Rerank(depth=5))
    texts = answer.explanation.texts
    assert texts.query == "owl bird"
    reranked = {candidate.id for candidate in answer.explanation.candidates if SCORED in candidate.rerank_outcomes}
    assert {passage.id for passage in texts.passages} == reranked
    assert len(reranked) == 5
    # A document of at most four words and a number is one row of pooled token vectors, or two.
    assert all((passage.stage, passage.text, passage.ordinal) == (1, "", 0) for passage in texts.passages)
    assert {passage.token_vectors for passage in texts.passages} <= {1, 2}
    alone = search(stub, explain_texts=True, rerank=pb.Rerank(enabled=False), mode=pb.RETRIEVAL_MODE_LEXICAL)
    assert (alone.explanation.texts.query, len(alone.explanation.texts.passages)) == ("", 0)
