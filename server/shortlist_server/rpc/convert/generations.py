"""Generations, reindexes and comparisons."""

from __future__ import annotations

import numpy as np
from google.protobuf import timestamp_pb2

from shortlist.v1 import collection_pb2, evaluation_pb2
from shortlist.v1 import collection_service_pb2 as service_pb
from shortlist.v1 import generation_pb2 as pb
from shortlist_server import domain
from shortlist_server.pipeline.comparison import Comparison, RankingDifference
from shortlist_server.pipeline.evaluate import Measures
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.documents import duration_out
from shortlist_server.rpc.convert.evaluation import RANKINGS

MAX_RECENT_QUERIES = 1000
DEFAULT_RECENT_QUERIES = 200


def new_generation_in(request: service_pb.StartReindexRequest) -> domain.NewGeneration:
    """The settings that a client asks for."""
    chunking = request.chunking if request.HasField("chunking") else None
    most = 2**31 - 1
    overlap = chunking is not None and chunking.HasField("overlap_tokens")
    return domain.NewGeneration(
        embedder=request.embedder,
        dimension=fields.within(request.dimension, 0, most, "dimension"),
        max_tokens=None if chunking is None else fields.within(chunking.max_tokens, 0, most, "chunking.max_tokens"),
        overlap_tokens=chunking.overlap_tokens if chunking is not None and overlap else None,
        query_instruction=fields.text(request.query_instruction, fields.MAX_INSTRUCTION_BYTES, "query_instruction")
        if request.HasField("query_instruction")
        else None,
    )


def generation_number(value: int) -> int:
    """The number of a generation; 0 where the request names none."""
    return fields.within(value, 0, 2**31 - 1, "generation")


def recent_count(request: service_pb.CompareGenerationsRequest) -> int:
    """How many recent queries to compare at most."""
    return fields.within(request.recent_queries, 0, MAX_RECENT_QUERIES, "recent_queries") or DEFAULT_RECENT_QUERIES


def generation_out(generation: domain.Generation, operation: str = "") -> pb.Generation:
    """A generation; ``operation`` is the name of the one that builds it."""
    config, progress = generation.config, generation.progress
    return pb.Generation(
        number=generation.number,
        state=pb.GenerationState.Value(f"GENERATION_STATE_{generation.state.name}"),
        embedder=config.embedder,
        embedder_revision=config.embedder_revision,
        dimension=config.dimension,
        chunking=collection_pb2.Chunking(
            max_tokens=config.chunking.max_tokens, overlap_tokens=config.chunking.overlap_tokens
        ),
        query_instruction=config.query_instruction,
        number_format=config.number_format,
        create_time=_time(generation.create_time_seconds),
        serve_time=_time(generation.serve_time_seconds) if generation.serve_time_seconds else None,
        passage_count=generation.passage_count,
        disk_bytes=generation.disk_bytes,
        complete=progress.complete,
        operation=operation,
        paused_reason=progress.paused,
        problem=generation.problem,
    )


def reindex_progress_out(progress: domain.ReindexProgress) -> pb.ReindexProgress:
    """The progress of a reindex."""
    return pb.ReindexProgress(
        done_documents=progress.done_documents,
        total_documents=progress.total_documents,
        done_tokens=progress.done_tokens,
        failed_documents=progress.failed_documents,
        documents_per_second=progress.documents_per_second,
        tokens_per_second=progress.tokens_per_second,
        remaining=None if progress.remaining_seconds is None else duration_out(progress.remaining_seconds),
        disk_bytes=progress.disk_bytes,
        paused_reason=progress.paused,
    )


def estimate_out(estimate: domain.ReindexEstimate) -> pb.ReindexEstimate:
    """The estimate of a reindex."""
    return pb.ReindexEstimate(
        document_count=estimate.document_count,
        passage_count=estimate.passage_count,
        token_count=estimate.token_count,
        duration=duration_out(estimate.duration_seconds),
        disk_bytes=estimate.disk_bytes,
        free_disk_bytes=estimate.free_disk_bytes,
        memory_bytes=estimate.memory_bytes,
        free_memory_bytes=estimate.free_memory_bytes,
        sampled_documents=estimate.sampled_documents,
    )


def comparison_out(comparison: Comparison) -> pb.GenerationComparison:
    """The result of a comparison."""
    moves = comparison.moves
    serving, candidate = np.array(comparison.serving_seconds), np.array(comparison.candidate_seconds)
    return pb.GenerationComparison(
        serving=comparison.serving,
        candidate=comparison.candidate,
        query_count=len(comparison.overlaps),
        mean_overlap=float(np.mean(comparison.overlaps)),
        changed_first_hits=comparison.changed_first_hits,
        moves=pb.HitMoves(same=moves.same, higher=moves.higher, lower=moves.lower, gone=moves.gone),
        serving_median=duration_out(float(np.median(serving))),
        serving_p95=duration_out(float(np.percentile(serving, 95))),
        candidate_median=duration_out(float(np.median(candidate))),
        candidate_p95=duration_out(float(np.percentile(candidate, 95))),
        rankings=[_ranking_out(ranking) for ranking in comparison.rankings],
        examples=[
            pb.ChangedQuery(
                id=example.query.id,
                text=example.query.text,
                overlap=example.overlap,
                serving_ids=example.serving_ids,
                candidate_ids=example.candidate_ids,
            )
            for example in comparison.examples
        ],
        degraded_searches=comparison.degraded,
    )


def _ranking_out(ranking: RankingDifference) -> pb.RankingComparison:
    def quality(measures: Measures) -> evaluation_pb2.RankingQuality:
        return evaluation_pb2.RankingQuality(ranking=RANKINGS[ranking.ranking], **measures)

    return pb.RankingComparison(
        serving=quality(ranking.serving),
        candidate=quality(ranking.candidate),
        ndcg_difference=ranking.ndcg,
        p_value=ranking.p,
    )


def _time(seconds: float) -> timestamp_pb2.Timestamp:
    time = timestamp_pb2.Timestamp()
    time.FromMilliseconds(round(seconds * 1000))
    return time
