"""Models on workers: the same answers, and no caller that hangs when a worker goes."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import grpc.aio
import numpy as np
import pytest

from shortlist.worker.v1 import worker_service_pb2_grpc as pb_grpc
from shortlist_server.config import Config
from shortlist_server.domain import LATE_INTERACTION, Chunking, Deadline, OverflowPolicy
from shortlist_server.errors import DeadlineExceeded, DocumentTooLarge, ModelMismatch, Unavailable
from shortlist_server.inference.base import (
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
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker
from shortlist_server.remote.catalog import find_models
from shortlist_server.remote.engines import RemoteEmbedder
from shortlist_server.remote.pool import WorkerPool
from shortlist_server.rpc.interceptors import CallInterceptor
from shortlist_server.rpc.worker_service import WorkerServicer

SOON = 20.0
T = TypeVar("T")


class HeldEmbedder(HashingEmbedder):
    """A hashing embedder whose passages wait for a gate, and queries for another."""

    def __init__(self, dimension: int = 64) -> None:
        super().__init__("held", dimension)
        self.info = dataclasses.replace(self.info, query_prompt="query: ", passage_prompt="passage: ")
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.query_gate = threading.Event()
        self.query_gate.set()

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        assert self.query_gate.wait(30)
        return super().embed_queries(queries)

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding]:
        self.entered.set()
        assert self.gate.wait(30)
        return super().embed_passages(contents, token_vectors=token_vectors)


class LengthReranker:
    """Scores a candidate by its length."""

    info = RerankerInfo(
        name="length",
        revision="1",
        uses_token_vectors=False,
        takes_instruction=True,
        default_weight=0.25,
        default_depth=7,
    )

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        lengths = np.array([len(candidate.text) for candidate in candidates], dtype=np.float32)
        cut = np.zeros(len(candidates), dtype=np.int32)
        return RerankScores(
            scores=lengths, probabilities=lengths / np.float32(1000), truncated_tokens=cut, tokens=len(candidates)
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        return [RenderedCandidate(text=f"{query.instruction}: {query.text}? {one.text}") for one in candidates]


class ListeningServicer(WorkerServicer):
    """Notes how long those who wait for a search will wait, in seconds."""

    def __init__(self, models: LoadedModels) -> None:
        super().__init__(models, Config())
        self.left: list[float] = []

    async def EmbedQueries(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.left.append(context.time_remaining())
        return await super().EmbedQueries(request, context)

    async def Rerank(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.left.append(context.time_remaining())
        return await super().Rerank(request, context)

    async def RenderQuery(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.left.append(context.time_remaining())
        return await super().RenderQuery(request, context)

    async def RenderCandidates(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.left.append(context.time_remaining())
        return await super().RenderCandidates(request, context)


class Worker:
    """A worker on an event loop of its own thread."""

    def __init__(self, engine: HashingEmbedder, *others: HashingEmbedder) -> None:
        self.engine = engine
        self.models = LoadedModels(
            [ScheduledEmbedder(one) for one in (engine, *others)],
            {"length": ScheduledReranker(LengthReranker())},
            "length",
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.port = self._do(self._start())

    async def _start(self) -> int:
        self.server = grpc.aio.server(interceptors=[CallInterceptor(max_concurrent=64, max_seconds=60)])
        self.servicer = ListeningServicer(self.models)
        pb_grpc.add_WorkerServiceServicer_to_server(self.servicer, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return port

    def kill(self) -> None:
        self._do(self.server.stop(0))

    def close(self) -> None:
        if isinstance(self.engine, HeldEmbedder):
            self.engine.gate.set()
            self.engine.query_gate.set()
        self.kill()
        self.models.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def _do(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SOON)


def held(worker: Worker) -> HeldEmbedder:
    assert isinstance(worker.engine, HeldEmbedder)
    return worker.engine


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start_worker(engine: HashingEmbedder | None = None, *others: HashingEmbedder) -> Worker:
        workers.append(Worker(engine or HeldEmbedder(), *others))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., LoadedModels]]:
    connected: list[LoadedModels] = []

    def connect_to(*workers: Worker) -> LoadedModels:
        connected.append(find_models(Config(workers=tuple(f"127.0.0.1:{worker.port}" for worker in workers))))
        return connected[-1]

    yield connect_to
    for models in connected:
        models.close()


def embed(models: LoadedModels, texts: Sequence[str]) -> list[PassageEmbedding | Exception]:
    service = models.embedder("held")
    chunking = Chunking(max_tokens=64, overlap_tokens=0)
    passages = [service.cut("", text, chunking, OverflowPolicy.TRUNCATE).passages[0] for text in texts]
    return list(asyncio.run(service.embed_passages(passages, dimension=64, token_vectors=True)))


def test_a_worker_answers_like_the_engine_itself(
    start: Callable[..., Worker], connect: Callable[..., LoadedModels]
) -> None:
    worker = start()
    models = connect(worker)
    (far,) = embed(models, ["a text of some words"])
    (near,) = worker.engine.embed_passages(["a text of some words"], token_vectors=True)
    assert isinstance(far, PassageEmbedding)
    assert np.array_equal(far.vector, near.vector)
    assert far.token_vectors == near.token_vectors
    service = models.embedder("held")
    query = asyncio.run(service.embed_query("some words", instruction="", dimension=64, deadline=Deadline.after(SOON)))
    assert query.token_vectors is not None
    assert query.token_vectors.shape == (2, 64)
    assert service.info == worker.engine.info
    assert models.default_reranker == "length"
    assert models.reranker(LATE_INTERACTION)


def test_reranking_goes_to_the_worker_in_slices(
    start: Callable[..., Worker], connect: Callable[..., LoadedModels]
) -> None:
    models = connect(start())
    candidates = [RerankCandidate(text="x" * n) for n in range(40)]
    scores = asyncio.run(models.reranker("length").rerank(RerankQuery(text="q"), candidates, Deadline.after(SOON)))
    assert scores.scores.tolist() == list(range(40))
    assert scores.probabilities is not None
    assert models.reranker("length").info.default_depth == 7


def test_what_the_models_of_a_worker_read_is_told(
    start: Callable[..., Worker], connect: Callable[..., LoadedModels]
) -> None:
    models = connect(start())
    assert models.embedder("held").render_query("an owl", instruction="") == "an owl"
    rendered = models.reranker("length").render(
        RerankQuery(text="q", instruction="find"), [RerankCandidate(text="a"), RerankCandidate(text="b")]
    )
    assert [one.text for one in rendered] == ["find: q? a", "find: q? b"]


def test_the_callers_deadline_goes_to_the_worker_and_ends_the_call(
    start: Callable[..., Worker], connect: Callable[..., LoadedModels]
) -> None:
    worker = start()
    models = connect(worker)
    service = models.embedder("held")

    def embed_query(text: str, seconds: float) -> None:
        asyncio.run(service.embed_query(text, instruction="", dimension=64, deadline=Deadline.after(seconds)))

    embed_query("in time", 7.0)
    asyncio.run(
        models.reranker("length").rerank(RerankQuery(text="q"), [RerankCandidate(text="a")], Deadline.after(9.0))
    )
    service.render_query("in time", instruction="", deadline=Deadline.after(7.0))
    models.reranker("length").render(RerankQuery(text="q", deadline=Deadline.after(9.0)), [RerankCandidate(text="a")])
    # Without a deadline it would be a minute.
    assert worker.servicer.left == [pytest.approx(seconds, abs=3) for seconds in (7, 9, 7, 9)]
    assert isinstance(worker.engine, HeldEmbedder)
    worker.engine.query_gate.clear()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        embed_query("too late", 0.3)
    # Had the call to the worker gone on, closing would wait for it.
    models.close()
    assert time.monotonic() - began < 5


def test_a_deadline_that_has_passed_is_no_fault_of_the_worker(start: Callable[..., Worker]) -> None:
    address = f"127.0.0.1:{start().port}"
    pool = WorkerPool([address])
    engine = RemoteEmbedder(pool, pool.describe().embedders[0])
    with pytest.raises(DeadlineExceeded):
        engine.embed_queries([QueryText(text="q", deadline=Deadline.after(-1.0))])
    assert pool.health() == {address: True}
    patient = QueryText(text="r", deadline=Deadline.after(SOON))
    assert len(engine.embed_queries([QueryText(text="q", deadline=Deadline.after(-1.0)), patient])) == 2
    pool.close()


def test_errors_keep_their_kind(start: Callable[..., Worker], connect: Callable[..., LoadedModels]) -> None:
    service = connect(start()).embedder("held")
    with pytest.raises(DocumentTooLarge):
        service.cut("", "word " * 100, Chunking(max_tokens=8, overlap_tokens=0), OverflowPolicy.ERROR)


def test_when_a_worker_dies_mid_request_the_other_answers(
    start: Callable[..., Worker], connect: Callable[..., LoadedModels]
) -> None:
    first, second = start(), start()
    models = connect(first, second)
    for worker in (first, second):
        held(worker).gate.clear()
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(embed, models, ["a text"])
        deadline = time.monotonic() + SOON
        while not (busy := [w for w in (first, second) if held(w).entered.is_set()]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        busy[0].kill()
        for worker in (first, second):
            held(worker).gate.set()
        (result,) = answer.result(SOON)
    assert isinstance(result, PassageEmbedding)


def test_when_all_workers_are_gone_the_caller_is_told(
    start: Callable[..., Worker], connect: Callable[..., LoadedModels]
) -> None:
    worker = start()
    models = connect(worker)
    assert isinstance(embed(models, ["a text"])[0], PassageEmbedding)
    service = models.embedder("held")
    worker.kill()
    with pytest.raises(Unavailable, match=str(worker.port)):
        asyncio.run(service.embed_query("q", instruction="", dimension=64, deadline=Deadline.after(SOON)))


def test_without_a_worker_the_server_does_not_start() -> None:
    with pytest.raises(Unavailable):
        find_models(Config(workers=("127.0.0.1:1",)))


def test_a_worker_with_another_revision_is_passed_over(
    start: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = start(), start(HeldEmbedder(dimension=32))
    addresses = [f"127.0.0.1:{worker.port}" for worker in (wrong, right)]
    pool = WorkerPool(addresses)
    described = WorkerPool(addresses[1:]).describe().embedders[0]
    engine = RemoteEmbedder(pool, described)
    for _ in range(3):
        (embedded,) = engine.embed_passages(["a text"], token_vectors=False)
        assert isinstance(embedded, PassageEmbedding)
        assert len(embedded.vector) == 64
    assert len(caplog.records) == 1  # It is not asked again for what it lacks.
    assert pool.health() == {addresses[0]: True, addresses[1]: True}
    pool.close()


def test_a_worker_serves_several_revisions_under_one_name(start: Callable[..., Worker]) -> None:
    worker = start(HeldEmbedder(dimension=64), HeldEmbedder(dimension=32))
    found = find_models(Config(workers=(f"127.0.0.1:{worker.port}",)))
    assert [embedder.info.dimension for embedder in found.embedders()] == [64, 32]
    for revision, dimension in (("", 64), ("hashing-1-64", 64), ("hashing-1-32", 32)):
        service = found.embedder("held", revision)
        passages = [PassageText(start=0, end=6, content="a text", tokens=2)]
        (embedded,) = asyncio.run(service.embed_passages(passages, dimension=dimension, token_vectors=False))
        assert isinstance(embedded, PassageEmbedding)
        assert len(embedded.vector) == dimension
    with pytest.raises(ModelMismatch, match="reindex"):
        found.embedder("held", "hashing-1-16")
    found.close()
