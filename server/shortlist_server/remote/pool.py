"""The connections to the workers: which worker gets a call, and what happens when it fails.

A call goes to the worker with the fewest calls under way. A worker that cannot be reached rests for a while, and the
call moves on to the next; one that lacks a model, or has another revision of it, rests for that model alone. The
caller's deadline travels with the call, so no worker works for a caller that is gone. Calls block; any thread may make
them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shortlist.worker.v1 import worker_service_pb2 as pb
from shortlist.worker.v1 import worker_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import Deadline
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
from shortlist_server.inference.base import NO_DEADLINE
from shortlist_server.observe import tracing

logger = logging.getLogger(__name__)

_START_SECONDS = 10.0
_CALL_SECONDS = 60.0
_REST_SECONDS = 5.0
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
        # Models that it refused, by name and revision, and until when nobody asks it for them first.
        self.lacks_until: dict[tuple[str, str], float] = {}

    def unlikely(self, model: tuple[str, str], now: float) -> bool:
        """Whether it should be asked last for this model."""
        return max(self.rests_until, self.lacks_until.get(model, 0.0)) > now


class WorkerPool:
    """The workers of a server.

    Args:
        addresses: HOST:PORT of each.
        credentials: of TLS; None to call the workers without it.
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
        """The models, as the first worker to answer describes them. Raises ``Unavailable`` when none answers."""
        response: pb.DescribeResponse = self.call("Describe", pb.DescribeRequest(), seconds=_START_SECONDS)
        return response

    def health(self) -> dict[str, bool]:
        """Whether each worker could be reached when it was last needed, by address."""
        now = time.monotonic()
        return {worker.address: worker.rests_until <= now for worker in self._workers}

    def call(self, rpc: str, request: Any, *, deadline: Deadline = NO_DEADLINE, seconds: float = _CALL_SECONDS) -> Any:
        """Calls an RPC by name and returns its response. When one worker cannot serve the call, the next is asked.

        Args:
            deadline: the caller's; no worker is asked once it has passed.
            seconds: how long a worker may take before it counts as stuck.

        Raises:
            DeadlineExceeded: the deadline passed.
            Unavailable: no worker could be reached, or none accepted this server's key or certificate.
            Overloaded: every worker that could be reached is busy.
            ModelMismatch, ModelNotFound: no worker serves this model in this revision.
            InvalidArgument, DocumentTooLarge, InferenceFailed: the worker refused the request, or its model failed.
        """
        refusal: ShortlistError = Unavailable("no worker can be reached", retry_after_seconds=_REST_SECONDS)
        model = (getattr(request, "model", ""), getattr(request, "revision", ""))
        for worker in self._by_preference(model):
            left = deadline.left_seconds()
            if left <= 0:
                raise DeadlineExceeded("the deadline passed before a worker was asked")
            with self._lock:
                worker.running += 1
            try:
                metadata = (*self._metadata, *tracing.carried())
                answer = getattr(worker.stub, rpc)(request, timeout=min(left, seconds), metadata=metadata)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and left <= seconds:
                    raise DeadlineExceeded("the deadline passed before the worker was done") from error
                refusal = _as_error(error, worker.address)
                if not isinstance(refusal, _OTHER_WORKER_MAY):
                    raise refusal from error
                logger.warning("%s", refusal.message)
                if isinstance(refusal, ModelMismatch | ModelNotFound):
                    worker.lacks_until[model] = time.monotonic() + _REST_SECONDS
                elif not isinstance(refusal, Overloaded):
                    worker.rests_until = time.monotonic() + _REST_SECONDS
            else:
                worker.rests_until = 0.0
                worker.lacks_until.pop(model, None)
                return answer
            finally:
                with self._lock:
                    worker.running -= 1
        raise refusal

    def close(self) -> None:
        """Closes the connections. Idempotent."""
        for worker in self._workers:
            worker.channel.close()

    def _by_preference(self, model: tuple[str, str]) -> list[_Worker]:
        """All workers, the least busy first. Those that rest or lack the model come last, for when no other is left."""
        now = time.monotonic()
        with self._lock:
            return sorted(self._workers, key=lambda worker: (worker.unlikely(model, now), worker.running))


def open_pool(config: Config) -> WorkerPool:
    """The pool of the workers that the settings name. Connections are made with the first call.

    Raises:
        InvalidArgument: a file cannot be read, or the TLS settings contradict each other.
    """
    if bool(config.worker_tls_certificate) != bool(config.worker_tls_key):
        raise InvalidArgument(
            "a certificate and its key belong together: give both or neither", field="worker_tls_certificate"
        )
    if config.worker_tls_certificate and not config.worker_tls_ca:
        raise InvalidArgument(
            "a client certificate alone is not enough: name the CA of the workers' certificates too",
            field="worker_tls_ca",
        )
    credentials = None
    if config.worker_tls_ca:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_read(config.worker_tls_ca, "worker_tls_ca"),
            private_key=_read(config.worker_tls_key, "worker_tls_key"),
            certificate_chain=_read(config.worker_tls_certificate, "worker_tls_certificate"),
        )
    api_key = (_read(config.worker_api_key_file, "worker_api_key_file") or b"").decode("ascii", "replace").strip()
    if not (api_key.isascii() and api_key.isprintable()):
        raise InvalidArgument("the file must hold one API key and nothing else", field="worker_api_key_file")
    if api_key and credentials is None:
        logger.warning(
            "the API key travels to the workers unencrypted: give the workers certificates, and name their CA with"
            " --worker-tls-ca"
        )
    return WorkerPool(config.workers, credentials=credentials, api_key=api_key)


def _read(path: str, field: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise InvalidArgument(f"the file cannot be read: {error}", field=field) from error


def _as_error(error: grpc.RpcError, address: str) -> ShortlistError:
    """The error that a worker's status stands for. A status without a known reason, as of a dying worker, is
    ``Unavailable``."""
    reason, retry_after_seconds = "", None
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_after_seconds = retry.retry_delay.ToMilliseconds() / 1000
    kind = next((kind for kind in _FROM_WORKER if kind.reason == reason), Unavailable)
    message = f"worker {address!r}: {error.details() or error.code().name}"
    return kind(message, retry_after_seconds=retry_after_seconds)
