"""What a comparison counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shortlist_server.domain import (
    BuildProgress,
    Chunking,
    Degradation,
    DegradationKind,
    Generation,
    GenerationConfig,
    GenerationState,
    Hit,
    RetrievalMode,
    SearchReport,
    SearchResult,
    StageScore,
    StoredDocument,
)
from shortlist_server.errors import GenerationNotFound, GenerationNotReady
from shortlist_server.pipeline.compare import pair_of
from shortlist_server.pipeline.comparison import EXAMPLES, ComparedQuery, Comparison, JudgedRanking, overlap


def result(ids: Sequence[str], seconds: float = 0.01, *, degraded: bool = False) -> SearchResult:
    lost = (Degradation(kind=DegradationKind.RERANK_FAILED, message="lost"),) if degraded else ()
    return SearchResult(
        hits=[
            Hit(
                rank=rank,
                score=1 / rank,
                dense=None,
                lexical=None,
                fused=StageScore(score=1 / rank, rank=rank, normalized=1 / rank),
                reranks=(),
                document=StoredDocument(
                    key=rank, id=id, sequence=1, title="", text="", metadata={}, passage_count=1, passages=()
                ),
                passages=(),
            )
            for rank, id in enumerate(ids, 1)
        ],
        report=SearchReport(
            total_seconds=seconds,
            stage_seconds={},
            mode=RetrievalMode.HYBRID,
            dense_strategy=None,
            dense_candidates=0,
            lexical_candidates=0,
            fused_candidates=0,
            rerank_stages=(),
            filter_matches=None,
            query_tokens=0,
            query_truncated_tokens=0,
            sequence=1,
            generation=1,
            embedder=None,
            degradations=lost,
        ),
    )


def query(id: str, **qrels: int) -> ComparedQuery:
    return ComparedQuery(id=id, text=f"text of {id}", qrels=qrels)


def test_every_hit_moves_once() -> None:
    comparison = Comparison(serving=1, candidate=2)
    comparison.count(query("q"), result("abcd", 0.5), result("acbx", 0.25, degraded=True))
    moves = comparison.moves
    assert (moves.same, moves.higher, moves.lower, moves.gone) == (1, 1, 1, 1)
    assert comparison.overlaps == [0.75]
    assert comparison.changed_first_hits == 0
    assert (comparison.serving_seconds, comparison.candidate_seconds) == ([0.5], [0.25])
    assert comparison.degraded == 1
    (example,) = comparison.examples
    assert (example.serving_ids, example.candidate_ids) == (list("abcd"), list("acbx"))


def test_only_the_first_ten_hits_count() -> None:
    comparison = Comparison(serving=1, candidate=2)
    letters = "abcdefghijklm"
    comparison.count(query("q"), result(letters), result([*letters[:10], "x", "y"]))
    assert comparison.overlaps == [1.0]
    assert comparison.moves.same == 10
    assert comparison.examples == []


def test_the_examples_are_the_queries_that_changed_most() -> None:
    comparison = Comparison(serving=1, candidate=2)
    for kept in range(10, -1, -1):
        after = [f"d{i}" if i < kept else f"new{i}" for i in range(10)]
        comparison.count(query(f"q{kept}"), result([f"d{i}" for i in range(10)]), result(after))
    assert len(comparison.overlaps) == 11
    assert [example.query.id for example in comparison.examples] == [f"q{kept}" for kept in range(EXAMPLES)]
    assert comparison.changed_first_hits == 1


def test_no_hits_at_all_agree_and_some_with_none_do_not() -> None:
    assert overlap([], []) == 1
    assert overlap(["a"], []) == 0
    assert overlap(["a"], ["a", "b"]) == 0.5


def test_a_ranking_is_judged_in_parts_and_tested_as_a_whole() -> None:
    judging = JudgedRanking("final")
    queries = [query(f"q{i}", good=1) for i in range(40)]
    for start in (0, 25):
        some = queries[start : start + 25]
        judging.judge(some, [["bad", "good"]] * len(some), [["good", "bad"]] * len(some))
    found = judging.difference()
    assert found.ranking == "final"
    assert found.serving["mrr_at_10"] == 0.5 and found.candidate["mrr_at_10"] == 1
    assert found.ndcg == pytest.approx(found.candidate["ndcg_at_10"] - found.serving["ndcg_at_10"])
    assert found.p < 0.001


def generation(number: int, state: GenerationState) -> Generation:
    return Generation(
        number=number,
        state=state,
        config=GenerationConfig(
            embedder="hashing", embedder_revision="r", dimension=8, chunking=Chunking(max_tokens=16, overlap_tokens=2)
        ),
        create_time_seconds=1,
        serve_time_seconds=0,
        passage_count=0,
        disk_bytes=0,
        progress=BuildProgress(
            done_documents=0,
            total_documents=0,
            done_tokens=0,
            failed_documents=0,
            paused="",
            paused_by_user=False,
            complete=False,
        ),
    )


S = GenerationState


@pytest.mark.parametrize(
    ("states", "number", "pair"),
    [
        ([S.SERVING, S.BUILDING], 0, (1, 2)),
        ([S.FORMER, S.SERVING], 0, (2, 1)),
        ([S.FORMER, S.SERVING, S.BUILDING], 0, (2, 3)),
        ([S.FORMER, S.SERVING, S.BUILDING], 1, (2, 1)),
    ],
)
def test_the_pair_is_the_serving_generation_and_another(
    states: list[GenerationState], number: int, pair: tuple[int, int]
) -> None:
    assert pair_of([generation(i, state) for i, state in enumerate(states, 1)], number) == pair


def test_a_generation_that_serves_or_is_gone_is_no_candidate() -> None:
    generations = [generation(1, S.DROPPING), generation(2, S.SERVING)]
    with pytest.raises(GenerationNotFound, match="start a reindex"):
        pair_of(generations, 0)
    with pytest.raises(GenerationNotReady, match="generation 2 serves"):
        pair_of(generations, 2)
    for number in (1, 9):
        with pytest.raises(GenerationNotFound, match=f"no generation {number}"):
            pair_of(generations, number)
