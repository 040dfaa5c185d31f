"""Requests and reports of evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shortlist.v1 import admin_service_pb2 as pb
from shortlist.v1 import collection_service_pb2, evaluation_pb2, operation_pb2, search_pb2
from shortlist_server.config import Config
from shortlist_server.domain import SearchDefaults
from shortlist_server.errors import InvalidArgument
from shortlist_server.pipeline.evaluate import Evaluation, JudgedQuery, Measures, Progress
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.search import model_version_out
from shortlist_server.rpc.convert.settings import settings_in

MAX_QUERIES = 10_000
MAX_SETTINGS = 32
MAX_GRADE = 100

QUALITY_BYTES = 160
"""Most bytes that the measures of a query take besides its id: four rankings of three doubles, with their tags."""

RANKINGS = {
    "dense": evaluation_pb2.EVALUATED_RANKING_DENSE,
    "lexical": evaluation_pb2.EVALUATED_RANKING_LEXICAL,
    "fused": evaluation_pb2.EVALUATED_RANKING_FUSED,
    "final": evaluation_pb2.EVALUATED_RANKING_FINAL,
}


def queries_in(
    request: pb.EvaluateRequest | collection_service_pb2.CompareGenerationsRequest, config: Config
) -> list[JudgedQuery]:
    """The judged queries, checked."""
    fields.within(len(request.queries), 1, MAX_QUERIES, "queries")
    queries = []
    for i, query in enumerate(request.queries):
        at = f"queries[{i}]"
        text = fields.text(query.text, config.max_query_bytes, f"{at}.text").strip()
        if not text:
            raise InvalidArgument("a query needs a text", field=f"{at}.text")
        grades = {
            fields.document_id(one.document_id, f"{at}.qrels[{j}].document_id"): fields.within(
                one.grade, 0, MAX_GRADE, f"{at}.qrels[{j}].grade"
            )
            for j, one in enumerate(query.qrels)
        }
        if not any(grades.values()):
            raise InvalidArgument("no document is judged relevant", field=f"{at}.qrels")
        queries.append(JudgedQuery(id=fields.document_id(query.id, f"{at}.id"), text=text, qrels=grades))
    if len({query.id for query in queries}) < len(queries):
        raise InvalidArgument("the ids of queries repeat", field="queries")
    return queries


def all_settings_in(request: pb.EvaluateRequest, config: Config) -> list[SearchDefaults]:
    """The settings to measure; the collection's defaults alone when there are none."""
    fields.within(len(request.settings), 0, MAX_SETTINGS, "settings")
    found = [settings_in(one, f"settings[{i}].", config) for i, one in enumerate(request.settings)]
    return found or [SearchDefaults()]


def reports_bytes(queries: Sequence[JudgedQuery], settings: Sequence[SearchDefaults]) -> int:
    """An upper bound of the bytes of all reports that have each query's measures."""
    return len(settings) * sum(len(query.id.encode()) + QUALITY_BYTES for query in queries)


def progress_out(progress: Progress) -> operation_pb2.EvaluateProgress:
    """How far it is."""
    return operation_pb2.EvaluateProgress(done_searches=progress.done, total_searches=progress.total)


def report_out(evaluation: Evaluation, *, include_queries: bool) -> operation_pb2.EvaluateReport:
    """What was measured with one of the settings."""
    report = operation_pb2.EvaluateReport(
        setting=evaluation.setting,
        rankings=[_quality_out(ranking, evaluation.mean(ranking)) for ranking in evaluation.queries],
        sequence=evaluation.sequence,
        embedder=model_version_out(evaluation.embedder),
        rerankers=[search_pb2.ModelVersion(name=one.name, revision=one.revision) for one in evaluation.rerankers],
        degraded_searches=evaluation.degraded,
    )
    if include_queries:
        report.queries.extend(_query_out(id, evaluation.queries) for id in next(iter(evaluation.queries.values())))
    return report


def _query_out(id: str, rankings: Mapping[str, Mapping[str, Measures]]) -> evaluation_pb2.QueryQuality:
    return evaluation_pb2.QueryQuality(
        id=id, rankings=[_quality_out(ranking, queries[id]) for ranking, queries in rankings.items()]
    )


def _quality_out(ranking: str, measures: Measures) -> evaluation_pb2.RankingQuality:
    return evaluation_pb2.RankingQuality(ranking=RANKINGS[ranking], **measures)
