"""WorkerService: the models of this process for servers elsewhere.

Requests pass through the same lanes as in a server. Coroutines on the worker's event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shortlist.worker.v1 import worker_service_pb2 as pb
from shortlist.worker.v1 import worker_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.errors import InvalidArgument, ModelMismatch
from shortlist_server.inference.base import (
    EmbedderInfo,
    EmbedderService,
    ModelCatalog,
    PassageEmbedding,
    PassageText,
    RerankCandidate,
    RerankerInfo,
    RerankerService,
    RerankQuery,
)
from shortlist_server.rpc.convert import fields
from shortlist_server.rpc.interceptors import deadline_of

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context

_OVERFLOW = {
    pb.OVERFLOW_CHUNK: OverflowPolicy.CHUNK,
    pb.OVERFLOW_TRUNCATE: OverflowPolicy.TRUNCATE,
    pb.OVERFLOW_ERROR: OverflowPolicy.ERROR,
}


class WorkerServicer(pb_grpc.WorkerServiceServicer):
    """Serves a catalog's models. Late interaction needs no model and stays on the server."""

    def __init__(self, models: ModelCatalog, config: Config) -> None:
        self._models = models
        self._max_seconds = config.max_deadline_seconds

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        """See the proto."""
        embedders = [embedder.info for embedder in self._models.embedders()]
        rerankers = [self._models.reranker(name).info for name in self._models.reranker_names]
        return pb.DescribeResponse(
            embedders=[_embedder_out(info) for info in embedders],
            rerankers=[_reranker_out(info) for info in rerankers if not info.uses_token_vectors],
        )

    async def Cut(self, request: pb.CutRequest, context: Context) -> pb.CutResponse:
        """See the proto."""
        embedder = self._embedder(request)
        if request.overflow not in _OVERFLOW:
            raise InvalidArgument("the overflow policy is not set", field="overflow")
        size = fields.within(request.passage_tokens, 1, 2**31 - 1, "passage_tokens")
        chunking = Chunking(
            max_tokens=size, overlap_tokens=fields.within(request.overlap_tokens, 0, size // 2, "overlap_tokens")
        )
        cut = await asyncio.to_thread(embedder.cut, request.title, request.text, chunking, _OVERFLOW[request.overflow])
        passages = [pb.Passage(start=p.start, end=p.end, content=p.content, tokens=p.tokens) for p in cut.passages]
        return pb.CutResponse(passages=passages, truncated_tokens=cut.truncated_tokens)

    async def EmbedQueries(self, request: pb.EmbedQueriesRequest, context: Context) -> pb.EmbedQueriesResponse:
        """See the proto."""
        embedder = self._embedder(request)
        deadline = deadline_of(context, self._max_seconds)
        embedded = await asyncio.gather(
            *(
                embedder.embed_query(
                    query.text, instruction=query.instruction, dimension=embedder.info.dimension, deadline=deadline
                )
                for query in request.queries
            )
        )
        return pb.EmbedQueriesResponse(
            embeddings=[
                pb.Embedding(
                    vector=_bytes(one.vector),
                    token_vectors=b"" if one.token_vectors is None else _bytes(one.token_vectors),
                    token_width=0 if one.token_vectors is None else one.token_vectors.shape[1],
                    tokens=one.tokens,
                    truncated_tokens=one.truncated_tokens,
                )
                for one in embedded
            ]
        )

    async def EmbedPassages(self, request: pb.EmbedPassagesRequest, context: Context) -> pb.EmbedPassagesResponse:
        """See the proto."""
        embedder = self._embedder(request)
        # The lane needs a passage's content and its approximate cost; the server knows the rest.
        passages = [
            PassageText(start=0, end=0, content=text, tokens=min(len(text) // 3 + 4, embedder.info.max_tokens))
            for text in request.contents
        ]
        embedded = await embedder.embed_passages(
            passages, dimension=embedder.info.dimension, token_vectors=request.token_vectors
        )
        return pb.EmbedPassagesResponse(embeddings=[_embedding_out(one) for one in embedded])

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """See the proto."""
        scores = await self._reranker(request).rerank(
            RerankQuery(text=request.query.text, instruction=request.query.instruction),
            [RerankCandidate(text=text) for text in request.texts],
            deadline_of(context, self._max_seconds),
        )
        return pb.RerankResponse(
            scores=scores.scores.tolist(),
            probabilities=[] if scores.probabilities is None else scores.probabilities.tolist(),
            truncated_tokens=scores.truncated_tokens.tolist(),
            tokens=scores.tokens,
        )

    async def RenderQuery(self, request: pb.RenderQueryRequest, context: Context) -> pb.RenderQueryResponse:
        """See the proto."""
        render, query = self._embedder(request).render_query, request.query
        return pb.RenderQueryResponse(text=await asyncio.to_thread(render, query.text, instruction=query.instruction))

    async def RenderCandidates(
        self, request: pb.RenderCandidatesRequest, context: Context
    ) -> pb.RenderCandidatesResponse:
        """See the proto."""
        query = RerankQuery(text=request.query.text, instruction=request.query.instruction)
        candidates = [RerankCandidate(text=text) for text in request.texts]
        rendered = await asyncio.to_thread(self._reranker(request).render, query, candidates)
        return pb.RenderCandidatesResponse(texts=[one.text for one in rendered])

    def _embedder(
        self, request: pb.CutRequest | pb.EmbedQueriesRequest | pb.EmbedPassagesRequest | pb.RenderQueryRequest
    ) -> EmbedderService:
        service = self._models.embedder(request.model, request.revision)
        _check_revision(request.model, request.revision, service.info.revision)
        return service

    def _reranker(self, request: pb.RerankRequest | pb.RenderCandidatesRequest) -> RerankerService:
        service = self._models.reranker(request.model)
        _check_revision(request.model, request.revision, service.info.revision)
        return service


def _check_revision(model: str, wanted: str, loaded: str) -> None:
    if wanted != loaded:
        raise ModelMismatch(f"{model} is loaded in revision {loaded}, not {wanted}: load the same files on all workers")


def _embedding_out(embedded: PassageEmbedding | Exception) -> pb.Embedding:
    if isinstance(embedded, Exception):
        return pb.Embedding(failure=str(embedded) or type(embedded).__name__)
    return pb.Embedding(
        vector=_bytes(embedded.vector),
        token_vectors=embedded.token_vectors or b"",
        tokens=embedded.tokens,
        truncated_tokens=embedded.truncated_tokens,
    )


def _embedder_out(info: EmbedderInfo) -> pb.Embedder:
    return pb.Embedder(
        name=info.name,
        revision=info.revision,
        dimension=info.dimension,
        min_dimension=info.min_dimension,
        max_tokens=info.max_tokens,
        passage_tokens=info.default_chunking.max_tokens,
        overlap_tokens=info.default_chunking.overlap_tokens,
        token_vectors=info.token_vectors,
        takes_instruction=info.takes_instruction,
        query_prompt=info.query_prompt,
        passage_prompt=info.passage_prompt,
        number_format=info.number_format,
        number_format_note=info.number_format_note,
        former_revisions=info.former_revisions,
    )


def _reranker_out(info: RerankerInfo) -> pb.Reranker:
    return pb.Reranker(
        name=info.name,
        revision=info.revision,
        takes_instruction=info.takes_instruction,
        default_weight=info.default_weight,
        default_depth=info.default_depth,
        number_format=info.number_format,
        number_format_note=info.number_format_note,
    )


def _bytes(values: NDArray[np.float32]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()
