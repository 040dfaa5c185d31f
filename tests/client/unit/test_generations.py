"""Generations, estimates and comparisons on the wire and as values."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from shortlist import (
    Chunking,
    Generation,
    InvalidArgument,
    RankingQuality,
    ReindexProgress,
)
from shortlist import _generation_calls as calls
from shortlist._generation_convert import (
    generation,
    generation_comparison,
    reindex_estimate,
    reindex_progress,
)
from shortlist._operation_convert import operation
from shortlist.v1 import evaluation_pb2, generation_pb2, operation_pb2


def made(**values: Any) -> generation_pb2.Generation:
    proto = generation_pb2.Generation(
        number=2,
        state=generation_pb2.GENERATION_STATE_BUILDING,
        embedder="base",
        embedder_revision="abc",
        dimension=768,
        number_format="int8",
        **values,
    )
    proto.chunking.max_tokens = 256
    proto.create_time.FromDatetime(datetime.datetime(2030, 1, 2))
    return proto


def test_a_generation_comes_from_the_wire_with_what_is_not_set() -> None:
    value = generation(made(operation="operations/1", paused_reason="the model is gone"))
    assert value == Generation(
        number=2,
        state="building",
        embedder="base",
        embedder_revision="abc",
        dimension=768,
        chunking=Chunking(max_tokens=256),
        query_instruction="",
        number_format="int8",
        create_time=datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC),
        serve_time=None,
        passage_count=0,
        disk_bytes=0,
        complete=False,
        operation="operations/1",
        paused_reason="the model is gone",
    )
    served = made()
    served.serve_time.FromSeconds(60)
    assert generation(served).serve_time == datetime.datetime(1970, 1, 1, 0, 1, tzinfo=datetime.UTC)


def test_a_state_of_a_newer_server_passes_through() -> None:
    proto = made()
    proto.state = 99  # type: ignore[assignment]
    assert str(generation(proto).state) == "99"


def test_time_left_is_none_while_it_is_not_known() -> None:
    proto = generation_pb2.ReindexProgress(done_documents=3, total_documents=9, tokens_per_second=1.5)
    assert reindex_progress(proto).remaining_seconds is None
    proto.remaining.FromMilliseconds(1500)
    assert reindex_progress(proto).remaining_seconds == 1.5


@pytest.mark.parametrize(
    ("disk", "memory", "fits"), [(10, 10, (True, True)), (11, 10, (False, True)), (10, 11, (True, False))]
)
def test_an_estimate_says_what_fits(disk: int, memory: int, fits: tuple[bool, bool]) -> None:
    estimate = reindex_estimate(
        generation_pb2.ReindexEstimate(
            disk_bytes=disk, free_disk_bytes=10, memory_bytes=memory, free_memory_bytes=10, document_count=5
        )
    )
    assert (estimate.fits_on_disk, estimate.fits_in_memory) == fits
    assert (estimate.document_count, estimate.seconds) == (5, 0.0)


def test_a_comparison_has_its_rankings_by_name() -> None:
    def quality(ndcg: float) -> evaluation_pb2.RankingQuality:
        return evaluation_pb2.RankingQuality(ranking=evaluation_pb2.EVALUATED_RANKING_FINAL, ndcg_at_10=ndcg)

    proto = generation_pb2.GenerationComparison(
        serving=1,
        candidate=2,
        query_count=7,
        mean_overlap=0.5,
        moves=generation_pb2.HitMoves(same=1, higher=2, lower=3, gone=4),
        rankings=[
            generation_pb2.RankingComparison(
                serving=quality(0.25), candidate=quality(0.5), ndcg_difference=0.25, p_value=0.01
            )
        ],
        examples=[generation_pb2.ChangedQuery(id="q", text="t", overlap=0.1, serving_ids=["a"], candidate_ids=["b"])],
    )
    proto.candidate_p95.FromMilliseconds(20)
    comparison = generation_comparison(proto)
    assert comparison.rankings.keys() == {"final"}
    assert comparison.rankings["final"].candidate == RankingQuality(ndcg_at_10=0.5, recall_at_100=0, mrr_at_10=0)
    assert (comparison.moves.same, comparison.moves.gone, comparison.candidate_p95_seconds) == (1, 4, 0.02)
    assert comparison.examples[0].candidate_ids == ("b",)


def test_an_operation_carries_a_reindex() -> None:
    proto = operation_pb2.Operation(
        name="operations/1",
        kind=operation_pb2.OPERATION_KIND_REINDEX,
        state=operation_pb2.OPERATION_STATE_PAUSED,
        reindex_progress=generation_pb2.ReindexProgress(done_documents=3, paused_reason="by a caller"),
    )
    paused = operation(proto)
    assert (paused.kind, paused.state, paused.done) == ("reindex", "paused", False)
    assert isinstance(paused.progress, ReindexProgress)
    assert paused.progress.paused_reason == "by a caller"
    proto.generation.CopyFrom(made())
    proto.state = operation_pb2.OPERATION_STATE_SUCCEEDED
    assert isinstance(operation(proto).result, Generation)


def test_what_is_left_out_of_a_reindex_is_not_on_the_wire() -> None:
    request = calls.start_reindex("books", calls.NewGeneration(), force=False).request
    assert not request.HasField("chunking")
    assert not request.HasField("query_instruction")
    assert not request.validate_only
    new = calls.NewGeneration(chunking=Chunking(max_tokens=64), query_instruction="")
    request = calls.estimate_reindex("books", new, force=True).request
    assert request.chunking.max_tokens == 64
    assert not request.chunking.HasField("overlap_tokens")
    assert request.HasField("query_instruction")
    assert request.validate_only
    assert request.force


@pytest.mark.parametrize(
    ("queries", "qrels", "field"),
    [
        ({"q": "text"}, None, "qrels"),
        (None, {"q": {"d": 1}}, "queries"),
        ({}, {}, "queries"),
        ({"q": "text"}, {"other": {"d": 1}}, "qrels"),
        ({"q": "text"}, {"q": {"d": 2**31}}, "qrels"),
    ],
)
def test_queries_without_qrels_are_refused_before_the_call(queries: Any, qrels: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        calls.compare_generations("books", 0, queries, qrels, 0)
    assert caught.value.field == field
