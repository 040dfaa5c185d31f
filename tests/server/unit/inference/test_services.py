"""Engines behind their lanes, with the hashing embedder and late interaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from shortlist_server.domain import Chunking, Deadline, OverflowPolicy
from shortlist_server.errors import DeadlineExceeded, InferenceFailed, InvalidArgument, Unavailable
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
from shortlist_server.inference.late_interaction import LateInteraction, pack
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker, shorten

SOON = 10.0


class CountingEmbedder(HashingEmbedder):
    """A hashing embedder that counts queries, can be held, and whose passages of one word are not finite."""

    def __init__(self) -> None:
        super().__init__("counting", 64)
        self.queries = 0
        self.ingesting = threading.Event()
        self.ingest_gate = threading.Event()
        self.ingest_gate.set()

    def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
        self.queries += len(queries)
        return super().embed_queries(queries)

    def embed_passages(self, contents: Sequence[str], *, token_vectors: bool) -> Sequence[PassageEmbedding]:
        self.ingesting.set()
        assert self.ingest_gate.wait(30)
        return [
            one if " " in content else PassageEmbedding(vector=one.vector * np.nan, token_vectors=None, tokens=1)
            for one, content in zip(
                super().embed_passages(contents, token_vectors=token_vectors), contents, strict=True
            )
        ]


@pytest.fixture
def engine() -> CountingEmbedder:
    return CountingEmbedder()


@pytest.fixture
async def service(engine: CountingEmbedder) -> AsyncIterator[ScheduledEmbedder]:
    service = ScheduledEmbedder(engine)
    yield service
    engine.ingest_gate.set()
    service.close()


def passage(content: str) -> PassageText:
    return PassageText(start=0, end=len(content), content=content, tokens=len(content.split()))


async def embed_query(service: ScheduledEmbedder, text: str, dimension: int = 64) -> np.ndarray:
    embedding = await service.embed_query(text, instruction="", dimension=dimension, deadline=Deadline.after(SOON))
    return embedding.vector


async def test_the_same_query_is_embedded_once(service: ScheduledEmbedder, engine: CountingEmbedder) -> None:
    first, again = await embed_query(service, "twice asked"), await embed_query(service, "twice asked")
    assert first is again
    assert engine.queries == 1
    await embed_query(service, "another")
    assert engine.queries == 2


async def test_an_instruction_the_model_ignores_does_not_split_the_cache(
    service: ScheduledEmbedder, engine: CountingEmbedder
) -> None:
    for instruction in ("", "Find the poem"):
        await service.embed_query("q", instruction=instruction, dimension=64, deadline=Deadline.after(SOON))
    assert engine.queries == 1


async def test_a_query_that_is_timed_is_embedded_anew(service: ScheduledEmbedder, engine: CountingEmbedder) -> None:
    for fresh in (False, False, True, True):
        await service.embed_query("q", instruction="", dimension=64, deadline=Deadline.after(SOON), fresh=fresh)
    assert engine.queries == 3


async def test_a_query_is_served_while_ingest_is_stuck(service: ScheduledEmbedder, engine: CountingEmbedder) -> None:
    engine.ingest_gate.clear()
    ingest = asyncio.create_task(service.embed_passages([passage("two words")], dimension=64, token_vectors=False))
    await embed_query(service, "at once")
    assert not ingest.done()
    engine.ingest_gate.set()
    (result,) = await ingest
    assert isinstance(result, PassageEmbedding)


async def test_a_vector_that_is_not_finite_fails_its_item_alone(service: ScheduledEmbedder) -> None:
    good, bad = await service.embed_passages([passage("two words"), passage("one")], dimension=64, token_vectors=True)
    assert isinstance(good, PassageEmbedding)
    assert good.token_vectors is not None
    assert isinstance(bad, InferenceFailed)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["vector", "token_vectors"])
async def test_a_query_that_is_not_finite_is_an_error_and_not_remembered(part: str, number: float) -> None:
    class Overflowing(CountingEmbedder):
        def embed_queries(self, queries: Sequence[QueryText]) -> Sequence[QueryEmbedding]:
            damaged = super().embed_queries(queries)
            for one in damaged:
                value = np.array(getattr(one, part))
                value.flat[0] = number
                object.__setattr__(one, part, value)
            return damaged

    engine = Overflowing()
    service = ScheduledEmbedder(engine)
    for _ in range(2):
        with pytest.raises(InferenceFailed, match="not finite"):
            await embed_query(service, "q")
    assert engine.queries == 2
    service.close()


async def test_a_dimension_the_model_does_not_make_is_refused(service: ScheduledEmbedder) -> None:
    with pytest.raises(InvalidArgument, match="64 to 64"):
        await embed_query(service, "q", dimension=32)


async def test_the_caller_is_let_go_at_the_deadline(service: ScheduledEmbedder, engine: CountingEmbedder) -> None:
    with pytest.raises(DeadlineExceeded):
        await service.embed_query("q", instruction="", dimension=64, deadline=Deadline.after(-1))
    assert engine.queries == 0


async def test_closing_fails_ingest_that_waits(service: ScheduledEmbedder, engine: CountingEmbedder) -> None:
    engine.ingest_gate.clear()
    first = asyncio.create_task(service.embed_passages([passage("runs now")], dimension=64, token_vectors=False))
    assert await asyncio.to_thread(engine.ingesting.wait, SOON)
    second = asyncio.create_task(service.embed_passages([passage("waits here")], dimension=64, token_vectors=False))
    async with asyncio.timeout(SOON):
        while not service._passages.queued_cost:
            await asyncio.sleep(0.001)
    closing = asyncio.create_task(asyncio.to_thread(service.close))
    (result,) = await second
    assert isinstance(result, Unavailable)
    engine.ingest_gate.set()
    await closing
    assert isinstance((await first)[0], PassageEmbedding)


def test_a_query_is_rendered_without_an_instruction_that_the_model_ignores() -> None:
    service = ScheduledEmbedder(CountingEmbedder())
    assert service.render_query("q", instruction="Find the poem") == "q"
    assert len(service.render_query("word " * 5000, instruction="").split()) == 4096
    service.close()


async def test_cut_and_info_are_the_engines(service: ScheduledEmbedder) -> None:
    chunking = Chunking(max_tokens=8, overlap_tokens=2)
    assert len(service.cut("", "word " * 20, chunking, OverflowPolicy.CHUNK).passages) == 3
    assert service.info.name == "counting"


def test_a_shortened_vector_has_length_one() -> None:
    short = shorten(np.array([0.6, 0.0, 0.8], dtype=np.float32), 2)
    assert short.tolist() == [1.0, 0.0]


class SlowReranker:
    """Scores one candidate a batch, for as long as it may go on."""

    info = RerankerInfo(
        name="slow",
        revision="1",
        uses_token_vectors=False,
        takes_instruction=False,
        default_weight=0.5,
        default_depth=10,
    )

    def __init__(self) -> None:
        self.started = threading.Event()
        self.stopped = threading.Event()

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        self.started.set()
        done = 0
        while done < len(candidates) and may_continue(0.01):
            threading.Event().wait(0.01)
            done += 1
        self.stopped.set()
        scores = np.ones(done, dtype=np.float32)
        return RerankScores(
            scores=scores, probabilities=None, truncated_tokens=np.zeros(done, dtype=np.int32), tokens=done
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        raise NotImplementedError


async def test_a_reranker_answers_for_the_candidates_it_reached() -> None:
    service = ScheduledReranker(SlowReranker())
    scores = await service.rerank(RerankQuery(text="q"), [RerankCandidate(text="t")] * 1000, Deadline.after(0.3))
    assert 0 < len(scores.scores) < 1000
    service.close()


async def test_a_reranker_that_reached_none_is_overdue() -> None:
    service = ScheduledReranker(SlowReranker())
    with pytest.raises(DeadlineExceeded):
        await service.rerank(RerankQuery(text="q"), [RerankCandidate(text="t")], Deadline.after(0.005))
    service.close()


async def test_a_reranker_stops_when_its_caller_is_gone() -> None:
    engine = SlowReranker()
    service = ScheduledReranker(engine)
    task = asyncio.create_task(
        service.rerank(RerankQuery(text="q"), [RerankCandidate(text="t")] * 10_000, Deadline.after(SOON))
    )
    assert await asyncio.to_thread(engine.started.wait, SOON)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(engine.stopped.wait, 5)
    service.close()


class GivenScores:
    """Scores candidates with given numbers."""

    info = SlowReranker.info

    def __init__(self, scores: Sequence[float], probabilities: Sequence[float] | None) -> None:
        self._scores = scores
        self._probabilities = probabilities

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        return RerankScores(
            scores=np.array(self._scores, dtype=np.float32),
            probabilities=None if self._probabilities is None else np.array(self._probabilities, dtype=np.float32),
            truncated_tokens=np.zeros(len(self._scores), dtype=np.int32),
            tokens=1,
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        return []


@pytest.mark.parametrize(
    ("scores", "probabilities"),
    [([1.0, np.nan], None), ([np.inf], None), ([-np.inf, 1.0], [0.0, 1.0]), ([1.0, 2.0], [0.7, np.nan])],
)
async def test_a_score_that_is_not_finite_is_an_error(scores: list[float], probabilities: list[float] | None) -> None:
    service = ScheduledReranker(GivenScores(scores, probabilities))
    with pytest.raises(InferenceFailed, match="'slow' gave a score that is not finite"):
        await service.rerank(RerankQuery(text="q"), [RerankCandidate(text="t")] * 2, Deadline.after(SOON))
    service.close()


async def test_a_passage_without_token_vectors_is_left_unscored_by_late_interaction() -> None:
    service = ScheduledReranker(LateInteraction())
    rows = np.eye(8, dtype=np.float32)
    candidates = [RerankCandidate(text="t"), RerankCandidate(token_vectors=pack(rows[:1]))]
    scores = await service.rerank(RerankQuery(text="q", token_vectors=rows[:1]), candidates, Deadline.after(SOON))
    assert np.isnan(scores.scores[0]) and scores.scores[1] == 1.0
    with pytest.raises(InferenceFailed, match="not finite"):
        await service.rerank(RerankQuery(text="q", token_vectors=rows[:1] * np.nan), candidates, Deadline.after(SOON))
    service.close()


async def test_late_interaction_is_served_like_any_reranker() -> None:
    service = ScheduledReranker(LateInteraction())
    rows = np.eye(8, dtype=np.float32)
    scores = await service.rerank(
        RerankQuery(text="q", token_vectors=rows[:2]),
        [RerankCandidate(token_vectors=pack(rows[:1])), RerankCandidate(token_vectors=pack(rows[6:7]))],
        Deadline.after(SOON),
    )
    assert np.allclose(scores.scores, [0.5, 0.0])
    service.close()
