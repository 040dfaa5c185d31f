"""From the protos of generations to values. Pure functions."""

from __future__ import annotations

import datetime
from typing import Any

from shortlist import _generation_types as generations
from shortlist._admin_convert import ranking_quality
from shortlist._convert import choice_from_proto, chunking_from_proto
from shortlist.v1 import evaluation_pb2, generation_pb2


def generation(proto: generation_pb2.Generation) -> generations.Generation:
    """A generation, from the wire."""
    return generations.Generation(
        number=proto.number,
        state=_state(proto.state),
        embedder=proto.embedder,
        embedder_revision=proto.embedder_revision,
        dimension=proto.dimension,
        chunking=chunking_from_proto(proto.chunking),
        query_instruction=proto.query_instruction,
        number_format=proto.number_format,
        create_time=proto.create_time.ToDatetime(datetime.UTC),
        serve_time=proto.serve_time.ToDatetime(datetime.UTC) if proto.HasField("serve_time") else None,
        passage_count=proto.passage_count,
        disk_bytes=proto.disk_bytes,
        complete=proto.complete,
        operation=proto.operation,
        paused_reason=proto.paused_reason,
        problem=proto.problem,
    )


def _state(number: int) -> Any:
    # The type lists the states of this release; a newer server's passes through as it is.
    return choice_from_proto(generation_pb2.GenerationState, "GENERATION_STATE", number)


def reindex_progress(proto: generation_pb2.ReindexProgress) -> generations.ReindexProgress:
    """How far a reindex is, from the wire."""
    return generations.ReindexProgress(
        done_documents=proto.done_documents,
        total_documents=proto.total_documents,
        done_tokens=proto.done_tokens,
        failed_documents=proto.failed_documents,
        documents_per_second=proto.documents_per_second,
        tokens_per_second=proto.tokens_per_second,
        remaining_seconds=proto.remaining.ToTimedelta().total_seconds() if proto.HasField("remaining") else None,
        disk_bytes=proto.disk_bytes,
        paused_reason=proto.paused_reason,
    )


def reindex_estimate(proto: generation_pb2.ReindexEstimate) -> generations.ReindexEstimate:
    """What a reindex will need, from the wire."""
    return generations.ReindexEstimate(
        document_count=proto.document_count,
        passage_count=proto.passage_count,
        token_count=proto.token_count,
        seconds=proto.duration.ToTimedelta().total_seconds(),
        disk_bytes=proto.disk_bytes,
        free_disk_bytes=proto.free_disk_bytes,
        memory_bytes=proto.memory_bytes,
        free_memory_bytes=proto.free_memory_bytes,
        sampled_documents=proto.sampled_documents,
    )


def generation_comparison(proto: generation_pb2.GenerationComparison) -> generations.GenerationComparison:
    """What a comparison found, from the wire."""
    moves = proto.moves
    return generations.GenerationComparison(
        serving=proto.serving,
        candidate=proto.candidate,
        query_count=proto.query_count,
        mean_overlap=proto.mean_overlap,
        changed_first_hits=proto.changed_first_hits,
        moves=generations.HitMoves(same=moves.same, higher=moves.higher, lower=moves.lower, gone=moves.gone),
        serving_median_seconds=proto.serving_median.ToTimedelta().total_seconds(),
        serving_p95_seconds=proto.serving_p95.ToTimedelta().total_seconds(),
        candidate_median_seconds=proto.candidate_median.ToTimedelta().total_seconds(),
        candidate_p95_seconds=proto.candidate_p95.ToTimedelta().total_seconds(),
        rankings={_ranking_name(compared): _ranking(compared) for compared in proto.rankings},
        examples=tuple(
            generations.ChangedQuery(
                id=example.id,
                text=example.text,
                overlap=example.overlap,
                serving_ids=tuple(example.serving_ids),
                candidate_ids=tuple(example.candidate_ids),
            )
            for example in proto.examples
        ),
        degraded_searches=proto.degraded_searches,
    )


def _ranking_name(proto: generation_pb2.RankingComparison) -> str:
    ranking = proto.serving.ranking
    return str(choice_from_proto(evaluation_pb2.EvaluatedRanking, "EVALUATED_RANKING", ranking))


def _ranking(proto: generation_pb2.RankingComparison) -> generations.RankingComparison:
    return generations.RankingComparison(
        serving=ranking_quality(proto.serving),
        candidate=ranking_quality(proto.candidate),
        ndcg_difference=proto.ndcg_difference,
        p_value=proto.p_value,
    )
