"""From the protos of ``AdminService`` to values. Pure functions."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from shortlist import _admin_types as admin
from shortlist._convert import choice_from_proto
from shortlist._search_convert import model_version
from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import evaluation_pb2, operation_pb2


def server_info(proto: pb.GetServerInfoResponse) -> admin.ServerInfo:
    """What a server is, from the wire."""
    return admin.ServerInfo(
        version=proto.version,
        start_time=proto.start_time.ToDatetime(datetime.UTC),
        startup_seconds=proto.startup_time.ToTimedelta().total_seconds(),
        embedders=tuple(map(_embedder, proto.embedders)),
        rerankers=tuple(map(_reranker, proto.rerankers)),
        collection_count=proto.collection_count,
    )


def _embedder(proto: pb.EmbedderModel) -> admin.EmbedderModel:
    return admin.EmbedderModel(
        name=proto.name,
        revision=proto.revision,
        dimension=proto.dimension,
        min_dimension=proto.min_dimension,
        max_tokens=proto.max_tokens,
        token_vectors=proto.token_vectors,
        takes_instruction=proto.takes_instruction,
        query_prompt=proto.query_prompt,
        passage_prompt=proto.passage_prompt,
        number_format=proto.number_format,
        number_format_note=proto.number_format_note,
    )


def _reranker(proto: pb.RerankerModel) -> admin.RerankerModel:
    return admin.RerankerModel(
        name=proto.name,
        revision=proto.revision,
        takes_instruction=proto.takes_instruction,
        default_weight=proto.default_weight,
        default_depth=proto.default_depth,
        number_format=proto.number_format,
        number_format_note=proto.number_format_note,
    )


def recall(proto: pb.GetRecallResponse) -> admin.CollectionRecall:
    """The recall of a collection's searches, from the wire."""
    return admin.CollectionRecall(
        target=proto.target, unfiltered=_estimate(proto.unfiltered), filtered=_estimate(proto.filtered)
    )


def _estimate(proto: pb.RecallEstimate) -> admin.RecallEstimate:
    return admin.RecallEstimate(
        ef=proto.ef,
        recall=proto.recall if proto.HasField("recall") else None,
        lower=proto.lower,
        upper=proto.upper,
        query_count=proto.query_count,
        check_count=proto.check_count,
    )


def verify_progress(proto: operation_pb2.VerifyProgress) -> admin.VerifyProgress:
    """The progress of a verification, from the wire."""
    return admin.VerifyProgress(collection=proto.collection, step=proto.step)


def verify_report(proto: operation_pb2.VerifyReport) -> admin.VerifyReport:
    """What a verification found, from the wire."""
    return admin.VerifyReport(
        collection=proto.collection,
        ok=proto.ok,
        checks=tuple(
            admin.VerifyCheck(name=check.name, ok=check.ok, detail="" if check.ok else check.detail)
            for check in proto.checks
        ),
        document_count=proto.document_count,
        passage_count=proto.passage_count,
        segment_passage_count=proto.segment_passage_count,
        growing_passage_count=proto.growing_passage_count,
        sampled_count=proto.sampled_count,
        reached_count=proto.reached_count,
        repairs=tuple(proto.repairs),
        notes=tuple(proto.notes),
    )


def copy_progress(proto: operation_pb2.CopyProgress) -> admin.CopyProgress:
    """How far a copy is, from the wire."""
    return admin.CopyProgress(
        collection=proto.collection, done_bytes=proto.done_bytes, total_bytes=proto.total_bytes, note=proto.note
    )


def backup(proto: operation_pb2.BackupInfo) -> admin.Backup:
    """A backup, from the wire."""
    return admin.Backup(
        name=proto.name,
        create_time=proto.create_time.ToDatetime(datetime.UTC),
        collections=tuple(
            admin.BackupCollection(
                name=collection.name,
                sequence=collection.sequence,
                document_count=collection.document_count,
                passage_count=collection.passage_count,
                disk_bytes=collection.disk_bytes,
                models=tuple(collection.models),
            )
            for collection in proto.collections
        ),
    )


def evaluate_progress(proto: operation_pb2.EvaluateProgress) -> admin.EvaluateProgress:
    """How far an evaluation is, from the wire."""
    return admin.EvaluateProgress(done_searches=proto.done_searches, total_searches=proto.total_searches)


def evaluate_report(proto: operation_pb2.EvaluateReport) -> admin.EvaluateReport:
    """What was measured, from the wire."""
    return admin.EvaluateReport(
        setting=proto.setting,
        rankings=_rankings(proto.rankings),
        queries={query.id: _rankings(query.rankings) for query in proto.queries},
        sequence=proto.sequence,
        embedder=model_version(proto.embedder),
        rerankers=tuple(filter(None, map(model_version, proto.rerankers))),
        degraded_searches=proto.degraded_searches,
    )


def _rankings(protos: Iterable[evaluation_pb2.RankingQuality]) -> dict[str, admin.RankingQuality]:
    return {
        str(choice_from_proto(evaluation_pb2.EvaluatedRanking, "EVALUATED_RANKING", proto.ranking)): (
            ranking_quality(proto)
        )
        for proto in protos
    }


def ranking_quality(proto: evaluation_pb2.RankingQuality) -> admin.RankingQuality:
    """Measures of a ranking, from the wire."""
    return admin.RankingQuality(
        ndcg_at_10=proto.ndcg_at_10, recall_at_100=proto.recall_at_100, mrr_at_10=proto.mrr_at_10
    )
