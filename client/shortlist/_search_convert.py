"""From the protos of a search's answer to values. Pure functions."""

from __future__ import annotations

from shortlist import _document_types as documents
from shortlist import _search_types as searches
from shortlist._convert import choice_from_proto, optional, passage
from shortlist._metadata import struct_to_dict
from shortlist.v1 import search_pb2, search_service_pb2


def search_result(proto: search_service_pb2.SearchResponse) -> searches.SearchResult:
    """The answer to a search."""
    return searches.SearchResult(
        hits=tuple(map(_hit, proto.hits)),
        report=_report(proto.report),
        explanation=_explanation(proto.explanation) if proto.HasField("explanation") else None,
    )


def _hit(proto: search_pb2.Hit) -> searches.Hit:
    document = proto.document
    return searches.Hit(
        id=proto.id,
        rank=proto.rank,
        score=proto.score,
        dense=_stage(proto.dense) if proto.HasField("dense") else None,
        lexical=_stage(proto.lexical) if proto.HasField("lexical") else None,
        fused=_stage(proto.fused),
        reranks=tuple(map(_rerank, proto.reranks)),
        document=documents.Document(
            id=proto.id, title=document.title, text=document.text, metadata=struct_to_dict(document.metadata)
        ),
        passages=tuple(
            searches.PassageHit(
                passage=passage(hit.passage),
                dense_score=optional(hit, "dense_score"),
                rerank_scores=dict(sorted(hit.rerank_scores.items())),
            )
            for hit in proto.passages
        ),
        sequence=proto.sequence,
    )


def _stage(proto: search_pb2.StageScore) -> searches.StageScore:
    return searches.StageScore(score=proto.score, rank=proto.rank, normalized=proto.normalized)


def _rerank(proto: search_pb2.RerankScore) -> searches.RerankScore:
    return searches.RerankScore(
        stage=proto.stage,
        score=proto.score,
        rank=proto.rank,
        normalized=proto.normalized,
        probability=optional(proto, "probability"),
        truncated_tokens=proto.truncated_tokens,
        blended=proto.blended,
        blended_rank=proto.blended_rank,
    )


STAGES = ("embed", "filter", "dense", "lexical", "fuse", "fetch", "rerank", "group")
"""The stages that a report has times of, in their order."""


def _report(proto: search_pb2.SearchReport) -> searches.SearchReport:
    timings = proto.timings
    return searches.SearchReport(
        total_seconds=timings.total.ToTimedelta().total_seconds(),
        stage_seconds={
            name: getattr(timings, name).ToTimedelta().total_seconds()
            for name in STAGES
            if timings.HasField(name)  # type: ignore[arg-type]
        },
        mode=choice_from_proto(search_pb2.RetrievalMode, "RETRIEVAL_MODE", proto.mode) or "",
        dense_strategy=choice_from_proto(search_pb2.DenseStrategy, "DENSE_STRATEGY", proto.dense_strategy) or "",
        dense_candidates=proto.dense_candidates,
        lexical_candidates=proto.lexical_candidates,
        fused_candidates=proto.fused_candidates,
        rerank_stages=tuple(map(_rerank_stage, proto.rerank_stages)),
        filter_matches=optional(proto, "filter_matches"),
        query_tokens=proto.query_tokens,
        query_truncated_tokens=proto.query_truncated_tokens,
        sequence=proto.sequence,
        embedder=model_version(proto.embedder),
        degradations=tuple(
            searches.Degradation(
                kind=choice_from_proto(search_pb2.DegradationKind, "DEGRADATION_KIND", degradation.kind) or "",
                message=degradation.message,
                stage=degradation.stage,
            )
            for degradation in proto.degradations
        ),
        generation=proto.generation,
    )


def _rerank_stage(proto: search_pb2.RerankStageReport) -> searches.RerankStageReport:
    return searches.RerankStageReport(
        stage=proto.stage,
        model=searches.ModelVersion(name=proto.model.name, revision=proto.model.revision),
        depth=proto.depth,
        weight=proto.weight,
        reranked=proto.reranked,
        tokens=proto.tokens,
        fetch_seconds=proto.fetch.ToTimedelta().total_seconds(),
        rerank_seconds=proto.rerank.ToTimedelta().total_seconds(),
    )


def model_version(proto: search_pb2.ModelVersion) -> searches.ModelVersion | None:
    """A model that a report names; None where it is not set."""
    return searches.ModelVersion(name=proto.name, revision=proto.revision) if proto.name else None


def _explanation(proto: search_pb2.Explanation) -> searches.Explanation:
    return searches.Explanation(
        candidates=tuple(map(_candidate, proto.candidates)),
        dense_candidates=proto.dense_candidates,
        dense_passages=proto.dense_passages,
        dense_sources=tuple(map(_source, proto.dense_sources)),
        lexical_candidates=proto.lexical_candidates,
        fusion_method=choice_from_proto(search_pb2.FusionMethod, "FUSION_METHOD", proto.fusion_method) or "",
        dense_weight=proto.dense_weight,
        rrf_k=proto.rrf_k,
        texts=_texts(proto.texts) if proto.HasField("texts") else None,
    )


def _candidate(proto: search_pb2.ExplainedCandidate) -> searches.ExplainedCandidate:
    return searches.ExplainedCandidate(
        id=proto.id,
        rank=proto.rank,
        score=proto.score,
        dense=_stage(proto.dense) if proto.HasField("dense") else None,
        lexical=_stage(proto.lexical) if proto.HasField("lexical") else None,
        fused=_stage(proto.fused),
        reranks=tuple(map(_rerank, proto.reranks)),
        outcome=choice_from_proto(search_pb2.CandidateOutcome, "CANDIDATE_OUTCOME", proto.outcome) or "",
        rerank_outcomes=tuple(
            choice_from_proto(search_pb2.RerankOutcome, "RERANK_OUTCOME", outcome) or ""
            for outcome in proto.rerank_outcomes
        ),
    )


def _source(proto: search_pb2.DenseSource) -> searches.DenseSource:
    return searches.DenseSource(
        name=proto.name,
        passages=proto.passages,
        matches=optional(proto, "matches"),
        ef=proto.ef,
        found=proto.found,
        strategy=choice_from_proto(search_pb2.DenseStrategy, "DENSE_STRATEGY", proto.strategy) or "",
    )


def _texts(proto: search_pb2.ExplainedTexts) -> searches.ExplainedTexts:
    return searches.ExplainedTexts(
        query=proto.query,
        passages=tuple(
            searches.RerankedPassage(
                stage=passage.stage,
                id=passage.id,
                ordinal=passage.ordinal,
                text=passage.text,
                token_vectors=passage.token_vectors,
            )
            for passage in proto.passages
        ),
    )
