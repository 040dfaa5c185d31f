"""Search requests and answers."""

from __future__ import annotations

import numpy as np

from shortlist.v1 import search_pb2 as pb
from shortlist.v1 import search_service_pb2 as service_pb
from shortlist_server import domain
from shortlist_server.config import Config
from shortlist_server.errors import InvalidArgument
from shortlist_server.pipeline.content import client_vector
from shortlist_server.pipeline.portions import least_bytes
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.convert.documents import duration_out, fill_document, include_in, passage_out
from shortlist_server.rpc.convert.filters import filter_in
from shortlist_server.rpc.convert.settings import settings_in
from shortlist_server.rpc.pieces import Pieces

DEFAULT_LIMIT = 10

HIT_WEIGHT = 512
"""What a hit, or a candidate of an explanation, weighs beside its texts: ten microseconds."""

METADATA_WEIGHT = 16
"""Converting metadata takes at most this many times as long as a text of as many bytes."""


def request_in(message: service_pb.SearchRequest, config: Config) -> domain.SearchRequest:
    """A checked search. The vector's size is checked against the collection later, by the pipeline."""
    text = fields.text(message.query.text, config.max_query_bytes, "query.text").strip()
    values = message.query.vector
    if not text and not values:
        raise InvalidArgument("a query needs a text or a vector", field="query")
    limit = fields.within(message.limit or DEFAULT_LIMIT, 1, config.max_hits, "limit")
    fields.within(message.offset, 0, config.max_hits, "offset")
    fields.within(limit + message.offset, 1, config.max_hits, "limit + offset")
    vector = None
    if values:
        array = np.array(values, dtype=np.float32)
        vector = client_vector(array, array.size, field="query.vector")
    if message.HasField("min_score"):
        fields.within(message.min_score, 0.0, 1.0, "min_score")
    if message.HasField("min_sequence"):
        fields.within(message.min_sequence, 0, 2**63 - 1, "min_sequence")
    return domain.SearchRequest(
        collection=fields.collection_name(message.collection),
        text=text,
        vector=vector,
        limit=limit,
        offset=message.offset,
        generation=fields.within(message.generation, 0, 2**31 - 1, "generation"),
        instruction=fields.text(message.instruction, fields.MAX_INSTRUCTION_BYTES, "instruction"),
        settings=settings_in(message, "", config),
        filter=filter_in(message.filter, config) if message.HasField("filter") else None,
        include=include_in(message.include),
        min_score=message.min_score if message.HasField("min_score") else None,
        min_sequence=message.min_sequence if message.HasField("min_sequence") else None,
        explain=message.explain or message.explain_texts,
        explain_texts=message.explain_texts,
        max_answer_bytes=config.max_message_bytes,
    )


def weight(result: domain.SearchResult, include: domain.Include) -> int:
    """The cost of converting a result, as the bytes of text that would take about as long."""
    size = 0
    for hit in result.hits:
        document = hit.document
        size += HIT_WEIGHT + least_bytes(document, include) + METADATA_WEIGHT * document.metadata_bytes
        for one in hit.passages:
            vector = one.passage.vector
            size += one.passage.end - one.passage.start + (0 if vector is None else vector.nbytes)
    if result.explanation is not None:
        size += HIT_WEIGHT * len(result.explanation.candidates)
    return size


def response_out(
    result: domain.SearchResult, include: domain.Include, max_bytes: int
) -> Pieces[service_pb.SearchResponse]:
    """The answer to a search.

    Raises:
        InvalidArgument: it has more than ``max_bytes``.
    """
    response = service_pb.SearchResponse(report=_report_out(result.report))
    if result.explanation is not None:
        response.explanation.CopyFrom(_explanation_out(result.explanation))
    pieces = Pieces(response, max_bytes)
    for hit in result.hits:
        pieces.add(service_pb.SearchResponse.HITS_FIELD_NUMBER, _hit_out(hit, include))
    return pieces


def _hit_out(hit: domain.Hit, include: domain.Include) -> pb.Hit:
    message = pb.Hit(
        id=hit.document.id,
        rank=hit.rank,
        score=hit.score,
        fused=_score_out(hit.fused),
        passages=[
            pb.PassageHit(
                passage=passage_out(passage.passage, hit.document.text),
                dense_score=passage.dense_score,
                rerank_scores=passage.rerank_scores,
            )
            for passage in hit.passages
        ],
        sequence=hit.document.sequence,
    )
    fill_document(message.document, hit.document, include)
    _add_stages(message, hit)
    return message


def _add_stages(message: pb.Hit | pb.ExplainedCandidate, candidate: domain.Hit | domain.ExplainedCandidate) -> None:
    if candidate.dense is not None:
        message.dense.CopyFrom(_score_out(candidate.dense))
    if candidate.lexical is not None:
        message.lexical.CopyFrom(_score_out(candidate.lexical))
    for score in candidate.reranks:
        message.reranks.add(
            stage=score.stage,
            score=score.score,
            rank=score.rank,
            normalized=score.normalized,
            probability=score.probability,
            truncated_tokens=score.truncated_tokens,
            blended=score.blended,
            blended_rank=score.blended_rank,
        )


def _explanation_out(explanation: domain.Explanation) -> pb.Explanation:
    message = pb.Explanation(
        dense_candidates=explanation.dense_candidates,
        lexical_candidates=explanation.lexical_candidates,
        fusion_method=pb.FusionMethod.Value(f"FUSION_METHOD_{explanation.fusion.name}"),
        dense_weight=explanation.dense_weight,
        rrf_k=explanation.rrf_k,
        dense_passages=explanation.dense_passages,
        dense_sources=[
            pb.DenseSource(
                name=source.name,
                passages=source.passages,
                matches=source.matches,
                ef=source.ef,
                found=source.found,
                strategy=pb.DenseStrategy.Value(f"DENSE_STRATEGY_{source.strategy.name}"),
            )
            for source in explanation.dense_sources
        ],
        texts=None if explanation.texts is None else _texts_out(explanation.texts),
    )
    for candidate in explanation.candidates:
        added = message.candidates.add(
            id=candidate.id,
            rank=candidate.rank,
            score=candidate.score,
            fused=_score_out(candidate.fused),
            outcome=pb.CandidateOutcome.Value(f"CANDIDATE_OUTCOME_{candidate.outcome.name}"),
            rerank_outcomes=[
                pb.RerankOutcome.Value(f"RERANK_OUTCOME_{outcome.name}") for outcome in candidate.rerank_outcomes
            ],
        )
        _add_stages(added, candidate)
    return message


def _texts_out(texts: domain.ExplainedTexts) -> pb.ExplainedTexts:
    return pb.ExplainedTexts(
        query=texts.query,
        passages=[
            pb.RerankedPassage(
                stage=passage.stage,
                id=passage.id,
                ordinal=passage.ordinal,
                text=passage.text,
                token_vectors=passage.token_vectors,
            )
            for passage in texts.passages
        ],
    )


def _score_out(score: domain.StageScore) -> pb.StageScore:
    return pb.StageScore(score=score.score, rank=score.rank, normalized=score.normalized)


def _report_out(report: domain.SearchReport) -> pb.SearchReport:
    timings = pb.SearchTimings(total=duration_out(report.total_seconds))
    for stage, seconds in report.stage_seconds.items():
        getattr(timings, stage).CopyFrom(duration_out(seconds))
    message = pb.SearchReport(
        timings=timings,
        mode=pb.RetrievalMode.Value(f"RETRIEVAL_MODE_{report.mode.name}"),
        dense_candidates=report.dense_candidates,
        lexical_candidates=report.lexical_candidates,
        fused_candidates=report.fused_candidates,
        rerank_stages=[
            pb.RerankStageReport(
                stage=stage.stage,
                model=model_version_out(stage.model),
                depth=stage.depth,
                weight=stage.weight,
                reranked=stage.reranked,
                tokens=stage.tokens,
                fetch=duration_out(stage.fetch_seconds),
                rerank=duration_out(stage.rerank_seconds),
            )
            for stage in report.rerank_stages
        ],
        filter_matches=report.filter_matches,
        query_tokens=report.query_tokens,
        query_truncated_tokens=report.query_truncated_tokens,
        sequence=report.sequence,
        generation=report.generation,
        embedder=model_version_out(report.embedder),
        degraded=bool(report.degradations),
        degradations=[
            pb.Degradation(
                kind=pb.DegradationKind.Value(f"DEGRADATION_KIND_{degradation.kind.name}"),
                message=degradation.message,
                stage=degradation.stage,
            )
            for degradation in report.degradations
        ],
    )
    if report.dense_strategy is not None:
        message.dense_strategy = pb.DenseStrategy.Value(f"DENSE_STRATEGY_{report.dense_strategy.name}")
    return message


def model_version_out(version: domain.ModelVersion | None) -> pb.ModelVersion | None:
    """A model and its revision; None where none was used."""
    return None if version is None else pb.ModelVersion(name=version.name, revision=version.revision)
