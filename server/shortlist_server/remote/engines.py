"""Engines that run on workers: an ``Embedder`` and a ``Reranker`` like those in this process.

They sit behind the same lanes as local engines, which bring queues, deadlines, priorities and the query cache. A worker
that has another revision of the model refuses the call. Calls block; any thread may make them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from shortlist.worker.v1 import worker_service_pb2 as pb
from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.errors import DeadlineExceeded, InferenceFailed
from shortlist_server.inference.base import (
    NO_DEADLINE,
    CutText,
    EmbedderInfo,
    MayContinue,
    PassageEmbedding,
    PassageText,
    QueryEmbedding,
    QueryText,
    RenderedCandidate,
    RerankCandidate,
    RerankerInfo,
    RerankQuery,
    RerankScores,
)
from shortlist_server.remote.pool import WorkerPool

_RERANK_SLICE = 16
_OVERFLOW = {
    OverflowPolicy.CHUNK: pb.OVERFLOW_CHUNK,
    OverflowPolicy.TRUNCATE: pb.OVERFLOW_TRUNCATE,
    OverflowPolicy.ERROR: pb.OVERFLOW_ERROR,
}


class RemoteEmbedder:
    """An ``Embedder`` on the workers."""

    batches_queries = True
    batch_tokens = 0

    def __init__(self, pool: WorkerPool, described: pb.Embedder) -> None:
        self._pool = pool
        self.info = EmbedderInfo(
            name=described.name,
            revision=described.revision,
            dimension=described.dimension,
            min_dimension=described.min_dimension,
            max_tokens=described.max_tokens,
            default_chunking=Chunking(max_tokens=described.passage_tokens, overlap_tokens=described.overlap_tokens),
            token_vectors=described.token_vectors,
            takes_instruction=described.takes_instruction,
            query_prompt=described.query_prompt,
            passage_prompt=described.passage_prompt,
            number_format=described.number_format,
            number_format_note=described.number_format_note,
            former_revisions=tuple(described.former_revisions),
        )

    def cut(self, title: str, text: str, chunking: Chunking, overflow: OverflowPolicy) -> CutText:
        """See ``EmbedderService.cut``."""
        request = pb.CutRequest(
            model=self.info.name,
            revision=self.info.revision,
            title=title,
            text=text,
            passage_tokens=chunking.max_tokens,
            overlap_tokens=chunking.overlap_tokens,
            overflow=_OVERFLOW[overflow],
        )
        response = self._pool.call("Cut", request)
        passages = [
            PassageText(start=p.start, end=p.end, content=p.content, tokens=p.tokens) for p in response.passages
        ]
        return CutText(passages=passages, truncated_tokens=response.truncated_tokens)

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        """See ``Embedder.embed_queries``."""
        request = pb.EmbedQueriesRequest(
            model=self.info.name,
            revision=self.info.revision,
            queries=[pb.Query(text=query.text, instruction=query.instruction) for query in queries],
        )
        last = max((query.deadline for query in queries), key=lambda deadline: deadline.at, default=NO_DEADLINE)
        response = self._pool.call("EmbedQueries", request, deadline=last)
        return [
            QueryEmbedding(
                vector=np.frombuffer(one.vector, dtype="<f4").copy(),
                token_vectors=np.frombuffer(one.token_vectors, dtype="<f4").reshape(-1, one.token_width).copy()
                if one.token_width
                else None,
                tokens=one.tokens,
                truncated_tokens=one.truncated_tokens,
            )
            for one in response.embeddings
        ]

    def render_query(self, query: QueryText) -> str:
        """See ``Embedder.render_query``."""
        request = pb.RenderQueryRequest(
            model=self.info.name,
            revision=self.info.revision,
            query=pb.Query(text=query.text, instruction=query.instruction),
        )
        return str(self._pool.call("RenderQuery", request, deadline=query.deadline).text)

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding | Exception]:
        """See ``Embedder.embed_passages``."""
        request = pb.EmbedPassagesRequest(
            model=self.info.name, revision=self.info.revision, contents=contents, token_vectors=token_vectors
        )
        response = self._pool.call("EmbedPassages", request)
        return [
            InferenceFailed(one.failure)
            if one.failure
            else PassageEmbedding(
                vector=np.frombuffer(one.vector, dtype="<f4").copy(),
                token_vectors=one.token_vectors or None,
                tokens=one.tokens,
                truncated_tokens=one.truncated_tokens,
            )
            for one in response.embeddings
        ]


class RemoteReranker:
    """A ``Reranker`` on the workers."""

    def __init__(self, pool: WorkerPool, described: pb.Reranker) -> None:
        self._pool = pool
        self._seconds_per_candidate = 0.01
        self.info = RerankerInfo(
            name=described.name,
            revision=described.revision,
            uses_token_vectors=False,
            takes_instruction=described.takes_instruction,
            default_weight=described.default_weight,
            default_depth=described.default_depth,
            number_format=described.number_format,
            number_format_note=described.number_format_note,
        )

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        """See ``Reranker.score``."""
        parts: list[pb.RerankResponse] = []
        for start in range(0, len(candidates), _RERANK_SLICE):
            part = candidates[start : start + _RERANK_SLICE]
            if not may_continue(len(part) * self._seconds_per_candidate):
                break
            request = pb.RerankRequest(
                model=self.info.name,
                revision=self.info.revision,
                query=pb.Query(text=query.text, instruction=query.instruction),
                texts=[candidate.text for candidate in part],
            )
            started = time.monotonic()
            try:
                parts.append(self._pool.call("Rerank", request, deadline=query.deadline))
            except DeadlineExceeded:
                if not parts:
                    raise
                break
            self._seconds_per_candidate = (time.monotonic() - started) / len(part)
            if len(parts[-1].scores) < len(part):
                break
        probabilities = [value for part in parts for value in part.probabilities]
        return RerankScores(
            scores=np.array([value for part in parts for value in part.scores], dtype=np.float32),
            probabilities=np.array(probabilities, dtype=np.float32) if probabilities else None,
            truncated_tokens=np.array([value for part in parts for value in part.truncated_tokens], dtype=np.int32),
            tokens=sum(part.tokens for part in parts),
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        """See ``Reranker.render``."""
        request = pb.RenderCandidatesRequest(
            model=self.info.name,
            revision=self.info.revision,
            query=pb.Query(text=query.text, instruction=query.instruction),
            texts=[candidate.text for candidate in candidates],
        )
        response = self._pool.call("RenderCandidates", request, deadline=query.deadline)
        return [RenderedCandidate(text=text) for text in response.texts]
