"""Engines that run on workers, over gRPC: an ``Embedder`` and a ``Reranker`` like those in this process.

The only file of inference that knows gRPC. They sit behind the same lanes as local engines, which bring queues,
deadlines, priorities and the query cache. A call goes to the worker with the fewest calls under way; one that cannot be
reached rests for a while, and the call moves on to the next. Workers of another model revision refuse. Blocking; any
thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shortlist.worker.v1 import worker_service_pb2 as pb
from shortlist.worker.v1 import worker_service_pb2_grpc as pb_grpc
from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.errors import (
    DocumentTooLarge,
    InferenceFailed,
    InvalidArgument,
    ModelMismatch,
    ModelNotFound,
    Overloaded,
    ShortlistError,
    Unavailable,
)
from shortlist_server.inference.base import (
    CutText,
    EmbedderInfo,
    MayGoOn,
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

_LOG = logging.getLogger(__name__)
Response = TypeVar("Response")

_START_SECONDS = 10.0
_CALL_SECONDS = 60.0
_REST_SECONDS = 5.0
_RERANK_SLICE = 16
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A worker whose machine is gone answers no ping; its calls then fail within seconds instead of hanging.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_FROM_WORKER = (InvalidArgument, DocumentTooLarge, ModelNotFound, ModelMismatch, Overloaded, InferenceFailed)
_OTHER_WORKER_MAY = (Unavailable, Overloaded, ModelMismatch, ModelNotFound)
_OVERFLOW = {
    OverflowPolicy.CHUNK: pb.OVERFLOW_CHUNK,
    OverflowPolicy.TRUNCATE: pb.OVERFLOW_TRUNCATE,
    OverflowPolicy.ERROR: pb.OVERFLOW_ERROR,
}


class _Worker:
    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.insecure_channel(address, options=_OPTIONS)
        self.stub = pb_grpc.WorkerServiceStub(self.channel)
        self.running = 0
        self.rests_until = 0.0


class WorkerPool:
    """The workers of a server."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._workers = [_Worker(address) for address in addresses]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._workers)

    def describe(self) -> pb.DescribeResponse:
        """The models, as the first worker that answers says. Raises ``Unavailable`` when none does."""
        response: pb.DescribeResponse = self.call(
            lambda stub, seconds: stub.Describe(pb.DescribeRequest(), timeout=seconds), _START_SECONDS
        )
        return response

    def health(self) -> dict[str, bool]:
        """For each worker's address whether it could be reached when it was last needed."""
        now = time.monotonic()
        return {worker.address: worker.rests_until <= now for worker in self._workers}

    def call(self, rpc: Callable[[Any, float], Response], seconds: float = _CALL_SECONDS) -> Response:
        """Runs ``rpc(stub, seconds)`` on a worker, and on the next where one fails for a reason of its own.

        Raises:
            Unavailable: no worker could be reached.
            Overloaded: all that could be reached are busy.
            ModelMismatch, InvalidArgument, DocumentTooLarge, InferenceFailed: as the worker says.
        """
        refusal: ShortlistError = Unavailable("No worker can be reached.", retry_after_seconds=_REST_SECONDS)
        for worker in self._by_preference():
            with self._lock:
                worker.running += 1
            try:
                answer = rpc(worker.stub, seconds)
            except grpc.RpcError as error:
                refusal = _as_error(error, worker.address)
                if not isinstance(refusal, _OTHER_WORKER_MAY):
                    raise refusal from error
                _LOG.warning("worker %s: %s", worker.address, refusal.message)
                if not isinstance(refusal, Overloaded):
                    worker.rests_until = time.monotonic() + _REST_SECONDS
            else:
                worker.rests_until = 0.0
                return answer
            finally:
                with self._lock:
                    worker.running -= 1
        raise refusal

    def close(self) -> None:
        """Ends the connections. Idempotent."""
        for worker in self._workers:
            worker.channel.close()

    def _by_preference(self) -> list[_Worker]:
        """All workers, the least busy first; resting ones last, so that a lone one is still tried."""
        now = time.monotonic()
        with self._lock:
            return sorted(self._workers, key=lambda worker: (worker.rests_until > now, worker.running))


class RemoteEmbedder:
    """An ``Embedder`` on the workers."""

    batches_queries = True

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
        response = self._pool.call(lambda stub, seconds: stub.Cut(request, timeout=seconds))
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
        response = self._pool.call(lambda stub, seconds: stub.EmbedQueries(request, timeout=seconds))
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
        return str(self._pool.call(lambda stub, seconds: stub.RenderQuery(request, timeout=seconds)).text)

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding | Exception]:
        """See ``Embedder.embed_passages``."""
        request = pb.EmbedPassagesRequest(
            model=self.info.name, revision=self.info.revision, contents=contents, token_vectors=token_vectors
        )
        response = self._pool.call(lambda stub, seconds: stub.EmbedPassages(request, timeout=seconds))
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
        )

    def score(self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_go_on: MayGoOn) -> RerankScores:
        """See ``Reranker.score``."""
        parts: list[pb.RerankResponse] = []
        for start in range(0, len(candidates), _RERANK_SLICE):
            part = candidates[start : start + _RERANK_SLICE]
            if not may_go_on(len(part) * self._seconds_per_candidate):
                break
            request = pb.RerankRequest(
                model=self.info.name,
                revision=self.info.revision,
                query=pb.Query(text=query.text, instruction=query.instruction),
                texts=[candidate.text for candidate in part],
            )
            started = time.monotonic()
            parts.append(self._pool.call(partial(_rerank, request)))
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
        response = self._pool.call(lambda stub, seconds: stub.RenderCandidates(request, timeout=seconds))
        return [RenderedCandidate(text=text) for text in response.texts]


def _rerank(request: pb.RerankRequest, stub: Any, seconds: float) -> pb.RerankResponse:
    response: pb.RerankResponse = stub.Rerank(request, timeout=seconds)
    return response


def _as_error(error: grpc.RpcError, address: str) -> ShortlistError:
    """The error a worker's status stands for; what a dying worker leaves behind is ``Unavailable``."""
    reason, retry_after_seconds = "", None
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after_seconds = retry.retry_delay.ToMilliseconds() / 1000
    kind = next((kind for kind in _FROM_WORKER if kind.reason == reason), Unavailable)
    message = f"Worker {address}: {error.details() or error.code().name}"
    return kind(message, retry_after_seconds=retry_after_seconds)
