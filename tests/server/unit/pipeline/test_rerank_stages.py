"""Searches that rerank in several stages: what each stage reads, what it changes, and what is left when one fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.domain import (
    Chunking,
    Deadline,
    DegradationKind,
    Document,
    Equals,
    Include,
    NewPassage,
    OverflowPolicy,
    RerankFailurePolicy,
    RerankOutcome,
    RerankStage,
    SearchDefaults,
    SearchRequest,
    SearchResult,
    Upsert,
)
from shortlist_server.errors import DeadlineExceeded, InferenceFailed
from shortlist_server.inference.base import (
    MayContinue,
    RenderedCandidate,
    RerankCandidate,
    RerankerInfo,
    RerankQuery,
    RerankScores,
)
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.loaded_models import LoadedModels, late_interaction
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker
from shortlist_server.observe.observer import Observer
from shortlist_server.pipeline.collections import NewCollection, create_collection
from shortlist_server.pipeline.search import Searcher
from shortlist_server.storage.store import EmbeddedStore

DOCUMENTS = 40
WORDS = ("owl", "mouse", "whale", "krill", "bat", "camel", "heron", "otter")
LATE = "late-interaction"


class Counting:
    """A reranker that counts a letter in the texts that it reads."""

    def __init__(self, letter: str, *, error: Exception | None = None, most: int = 1000) -> None:
        self.info = RerankerInfo(
            name=letter,
            revision="1",
            uses_token_vectors=False,
            takes_instruction=True,
            default_weight=0.5,
            default_depth=10,
        )
        self.read: list[str] = []
        self.instructions: list[str] = []
        self._error = error
        self._most = most

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        if self._error is not None:
            raise self._error
        reached = candidates[: self._most]
        self.read = [candidate.text for candidate in reached]
        self.instructions.append(query.instruction)
        counts = np.array([text.count(self.info.name) for text in self.read], dtype=np.float32)
        return RerankScores(
            scores=counts,
            probabilities=counts / np.float32(1000),
            truncated_tokens=np.full(len(reached), 3, dtype=np.int32),
            tokens=sum(map(len, self.read)),
        )

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        return [RenderedCandidate(text=f"{query.text} [SEP] {one.text}") for one in candidates]


class Searching:
    """A collection of long texts, whose passages are of sixteen words, and rerankers by letters."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        engine = HashingEmbedder("hashing", 64)
        embedders = [ScheduledEmbedder(engine)]
        rerankers, default = late_interaction(embedders, Observer())
        self.a, self.e = Counting("a"), Counting("e")
        self.broken = Counting("b", error=InferenceFailed("the model failed"))
        self.partial = Counting("p", most=3)
        self.late = Counting("l", error=DeadlineExceeded("no time"))
        for one in (self.a, self.e, self.broken, self.partial, self.late):
            rerankers[one.info.name] = ScheduledReranker(one)
        self._models = LoadedModels(embedders, rerankers, default)
        self._store = EmbeddedStore(Config(data_dir=folder), maintain=False)
        chunking = Chunking(max_tokens=16, overlap_tokens=0)
        collection = create_collection(
            self._store, self._models, NewCollection(name="c", max_tokens=16, overlap_tokens=0)
        )
        dice = np.random.default_rng(3)
        changes = []
        for number in range(DOCUMENTS):
            text = " ".join(dice.choice(WORDS, 40))
            cut = engine.cut("", text, chunking, OverflowPolicy.CHUNK).passages
            embedded = engine.embed_passages([one.content for one in cut], token_vectors=True)
            passages = [
                NewPassage(
                    start=one.start, end=one.end, vector=of.vector, tokens=one.tokens, token_vectors=of.token_vectors
                )
                for one, of in zip(cut, embedded, strict=True)
            ]
            document = Document(id=f"d{number}", title="", text=text, metadata={})
            changes.append(Upsert(document=document, passages={1: passages}, content_hash=bytes([number])))
        collection.commit(changes).result()
        self._searcher = Searcher(self._store, self._models, threads, Observer())

    async def search(
        self, *stages: RerankStage, policy: RerankFailurePolicy | None = None, **fields: Any
    ) -> SearchResult:
        settings = SearchDefaults(
            rerank=bool(stages), rerank_stages=stages or None, rerank_on_failure=policy, dense_candidates=DOCUMENTS
        )
        request = SearchRequest(
            collection="c", text="owl whale heron", settings=settings, **{"limit": DOCUMENTS, **fields}
        )
        return await self._searcher.search(request, Deadline.after(30))

    def close(self) -> None:
        self._store.close()
        self._models.close()


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[Searching]:
    with ThreadPoolExecutor(2) as threads:
        made = Searching(tmp_path, threads)
        yield made
        made.close()


def ids(result: SearchResult) -> list[str]:
    return [hit.document.id for hit in result.hits]


async def test_each_stage_takes_the_best_of_the_one_before(searching: Searching) -> None:
    plain = await searching.search()
    one = await searching.search(RerankStage(model=LATE, depth=20, weight=0.7))
    two = await searching.search(
        RerankStage(model=LATE, depth=20, weight=0.7), RerankStage(model="a", depth=5, weight=0.9)
    )
    assert set(ids(one)[:20]) == set(ids(plain)[:20])
    assert ids(one)[20:] == ids(plain)[20:]
    assert set(ids(two)[:5]) == set(ids(one)[:5])
    assert ids(two)[5:] == ids(one)[5:]
    assert ids(two)[:5] != ids(one)[:5]
    for hit in two.hits:
        assert [score.stage for score in hit.reranks] == [1, 2][: (hit.rank <= 20) + (hit.rank <= 5)]
        if hit.reranks:
            assert (hit.reranks[-1].blended, hit.reranks[-1].blended_rank) == (hit.score, hit.rank)
    before = {hit.document.id: hit.rank for hit in one.hits}
    assert all(hit.reranks[0].blended_rank == before[hit.document.id] for hit in two.hits[:20])
    stages = two.report.rerank_stages
    assert [(stage.stage, stage.model.name, stage.depth, stage.reranked) for stage in stages] == [
        (1, LATE, 20, 20),
        (2, "a", 5, 5),
    ]
    assert stages[1].tokens == sum(map(len, searching.a.read))
    assert two.report.stage_seconds["rerank"] == pytest.approx(sum(stage.rerank_seconds for stage in stages))


async def test_a_reranker_of_texts_reads_the_passage_that_the_stage_before_scored_best(searching: Searching) -> None:
    include = Include(passages=True)
    first = await searching.search(RerankStage(model=LATE, depth=20), include=include)
    best = {
        hit.document.id: max(hit.passages, key=lambda one: one.rerank_scores.get(1, -1.0)).passage for hit in first.hits
    }
    both = await searching.search(RerankStage(model=LATE, depth=20), RerankStage(model="a", depth=7), include=include)
    read = [hit.document.text[best[hit.document.id].start : best[hit.document.id].end] for hit in first.hits[:7]]
    assert searching.a.read == read
    for hit in both.hits[:7]:
        assert hit.passages[0].passage.ordinal == best[hit.document.id].ordinal
        assert set(hit.passages[0].rerank_scores) == {1, 2}
    nearest = await searching.search(RerankStage(model="a", depth=7), include=include)
    plain = await searching.search(include=include)
    assert len(plain.hits[0].passages) > 1
    near = [max(hit.passages, key=lambda one: one.dense_score or -1.0).passage for hit in plain.hits[:7]]
    assert searching.a.read == [
        hit.document.text[passage.start : passage.end] for hit, passage in zip(plain.hits, near, strict=False)
    ]
    assert all(list(hit.passages[0].rerank_scores) == [1] for hit in nearest.hits[:7])


async def test_a_later_stage_may_go_deeper_than_the_one_before(searching: Searching) -> None:
    found = await searching.search(RerankStage(model="a", depth=3), RerankStage(model="e", depth=12))
    assert [stage.reranked for stage in found.report.rerank_stages] == [3, 12]
    assert sum(len(hit.reranks) == 2 for hit in found.hits) == 3


async def test_a_stage_that_fails_leaves_the_order_and_the_next_one_runs(searching: Searching) -> None:
    stages = (RerankStage(model="b", depth=9), RerankStage(model="a", depth=5, weight=1.0))
    found = await searching.search(*stages, explain=True)
    without = await searching.search(stages[1])
    assert ids(found) == ids(without)
    (lost,) = found.report.degradations
    assert (lost.kind, lost.stage, lost.message) == (DegradationKind.RERANK_FAILED, 1, "the model failed")
    assert [stage.reranked for stage in found.report.rerank_stages] == [0, 5]
    assert found.explanation is not None
    outcomes = [tuple(one.rerank_outcomes) for one in found.explanation.candidates]
    failed, beyond = RerankOutcome.FAILED, RerankOutcome.BEYOND_DEPTH
    assert sorted(outcomes[:9], key=str) == sorted(
        [(failed, RerankOutcome.SCORED)] * 5 + [(failed, beyond)] * 4, key=str
    )
    assert set(outcomes[9:]) == {(beyond, beyond)}
    with pytest.raises(InferenceFailed):
        await searching.search(*stages, policy=RerankFailurePolicy.FAIL)


async def test_each_stage_says_for_itself_that_its_time_was_over(searching: Searching) -> None:
    stages = (
        RerankStage(model="p", depth=8),
        RerankStage(model="l", depth=5),
        RerankStage(model="a", depth=2),
    )
    found = await searching.search(*stages, explain=True)
    assert [(lost.kind, lost.stage) for lost in found.report.degradations] == [
        (DegradationKind.RERANK_PARTIAL, 1),
        (DegradationKind.RERANK_SKIPPED, 2),
    ]
    assert [stage.reranked for stage in found.report.rerank_stages] == [3, 0, 2]
    assert found.explanation is not None
    of_each = list(zip(*(one.rerank_outcomes for one in found.explanation.candidates), strict=True))
    late = RerankOutcome.OUT_OF_TIME
    assert [outcomes.count(late) for outcomes in of_each] == [5, 5, 0]
    for policy in (stages[:1], stages[1:2]):
        with pytest.raises(DeadlineExceeded):
            await searching.search(*policy, policy=RerankFailurePolicy.FAIL)


async def test_each_stage_has_its_own_instruction_and_tells_what_it_read(searching: Searching) -> None:
    stages = (
        RerankStage(model=LATE, depth=4),
        RerankStage(model="a", depth=2, instruction="count"),
        RerankStage(model="e", depth=1),
    )
    found = await searching.search(*stages, instruction="find", explain=True, explain_texts=True)
    assert (searching.a.instructions, searching.e.instructions) == (["count"], ["find"])
    assert found.explanation is not None and found.explanation.texts is not None
    read = found.explanation.texts.passages
    assert {one.stage for one in read if one.token_vectors} == {1}
    texts = {stage: [one.text for one in read if one.stage == stage] for stage in (2, 3)}
    assert texts == {
        2: [f"owl whale heron [SEP] {text}" for text in searching.a.read],
        3: [f"owl whale heron [SEP] {text}" for text in searching.e.read],
    }


async def test_a_search_that_finds_nothing_reports_its_stages(searching: Searching) -> None:
    nothing = Equals(("year",), 1999.0)
    found = await searching.search(RerankStage(model=LATE), RerankStage(model="a"), filter=nothing, explain=True)
    assert (ids(found), found.report.degradations) == ([], ())
    assert [(stage.model.name, stage.reranked) for stage in found.report.rerank_stages] == [(LATE, 0), ("a", 0)]
