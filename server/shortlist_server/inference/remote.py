"""Engines that run on workers, over gRPC: an ``Embedder`` and a ``Reranker`` like those in this process.

The only file of inference that knows gRPC. They sit behind the same lanes as local engines, which bring queues,
deadlines, priorities and the query cache. A call goes to the worker with the fewest calls under way; one that cannot be
reached rests for a while, and the call moves on to the next. Workers of another model revision refuse. A query's
deadline goes with it, so that no worker works for a caller that is gone. Blocking; any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shortlist.worker.v1 import worker_service_pb2 as pb
from shortlist.worker.v1 import worker_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Chunking, Deadline, OverflowPolicy
from shortlist_server.errors import (
    DeadlineExceeded,
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
    NO_DEADLINE,
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
from shortlist_server.observe import tracing

logger = logging.getLogger(__name__)

_START_SECONDS = 10.0
_CALL_SECONDS = 60.0
_REST_SECONDS = 5.0
_RERANK_SLICE = 16
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A worker whose machine is gone answers no ping; its calls then fail within seconds instead of hanging.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
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
    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.channel = (
            grpc.insecure_channel(address, options=OPTIONS)
            if credentials is None
            else grpc.secure_channel(address, credentials, options=OPTIONS)
        )
        self.stub = pb_grpc.WorkerServiceStub(self.channel)
        self.running = 0
        self.rests_until = 0.0


class WorkerPool:
    """The workers of a server.

    Args:
        addresses: HOST:PORT of each.
        credentials: None: they are called without TLS.
        api_key: sent with every call; "" for none.
    """

    def __init__(
        self, addresses: Sequence[str], *, credentials: grpc.ChannelCredentials | None = None, api_key: str = ""
    ) -> None:
        self._workers = [_Worker(address, credentials) for address in addresses]
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._workers)

    def describe(self) -> pb.DescribeResponse:
        """The models, as the first worker that answers says. Raises ``Unavailable`` when none does."""
        response: pb.DescribeResponse = self.call("Describe", pb.DescribeRequest(), seconds=_START_SECONDS)
        return response

    def health(self) -> dict[str, bool]:
        """For each worker's address whether it could be reached when it was last needed."""
        now = time.monotonic()
        return {worker.address: worker.rests_until <= now for worker in self._workers}

    def call(self, rpc: str, request: Any, *, deadline: Deadline = NO_DEADLINE, seconds: float = _CALL_SECONDS) -> Any:
        """The response of an RPC by its name from a worker, or from the next where one fails for a reason of its own.

        Args:
            deadline: of those who wait; nothing is asked when it has passed.
            seconds: after which a worker is taken for stuck.

        Raises:
            DeadlineExceeded: the deadline passed.
            Unavailable: no worker could be reached, or let this server in.
            Overloaded: all that could be reached are busy.
            ModelMismatch, InvalidArgument, DocumentTooLarge, InferenceFailed: as the worker says.
        """
        refusal: ShortlistError = Unavailable("No worker can be reached.", retry_after_seconds=_REST_SECONDS)
        for worker in self._by_preference():
            left = deadline.left_seconds()
            if left <= 0:
                raise DeadlineExceeded("The deadline passed before a worker was asked.")
            with self._lock:
                worker.running += 1
            try:
                metadata = (*self._metadata, *tracing.carried())
                answer = getattr(worker.stub, rpc)(request, timeout=min(left, seconds), metadata=metadata)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and left <= seconds:
                    raise DeadlineExceeded("The deadline passed before a worker was done.") from error
                refusal = _as_error(error, worker.address)
                if not isinstance(refusal, _OTHER_WORKER_MAY):
                    raise refusal from error
                logger.warning("worker %s: %s", worker.address, refusal.message)
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


def open_pool(config: Config) -> WorkerPool:
    """The workers that the settings name. No connection is made yet.

    Raises:
        InvalidArgument: a file cannot be read, or the settings of TLS do not go together.
    """
    if bool(config.worker_tls_certificate) != bool(config.worker_tls_key):
        raise InvalidArgument("a certificate needs its key, and the other way round", field="worker_tls_certificate")
    if config.worker_tls_certificate and not config.worker_tls_ca:
        raise InvalidArgument("to show workers a certificate, say whose certificates to trust", field="worker_tls_ca")
    credentials = None
    if config.worker_tls_ca:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_read(config.worker_tls_ca, "worker_tls_ca"),
            private_key=_read(config.worker_tls_key, "worker_tls_key"),
            certificate_chain=_read(config.worker_tls_certificate, "worker_tls_certificate"),
        )
    api_key = (_read(config.worker_api_key_file, "worker_api_key_file") or b"").decode("ascii", "replace").strip()
    if not (api_key.isascii() and api_key.isprintable()):
        raise InvalidArgument("the file holds more than an API key", field="worker_api_key_file")
    if api_key and credentials is None:
        logger.warning("the API key travels to the workers unencrypted: give them certificates, and --worker-tls-ca here")
    return WorkerPool(config.workers, credentials=credentials, api_key=api_key)


def _read(path: str, field: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise InvalidArgument(f"the file cannot be read: {error}", field=field) from error


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
