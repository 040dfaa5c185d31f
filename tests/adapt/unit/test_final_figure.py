"""The figure of a reranker, and the cache of figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from shortlist_adapt.development.figures import Figure, kept
from shortlist_adapt.development.final import from_pairs, measure_final, read_shortlists
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import Shortlist, Split, TrainingPair, write_lines
from shortlist_server.inference.base import (
    MayContinue,
    RenderedCandidate,
    RerankCandidate,
    RerankerInfo,
    RerankQuery,
    RerankScores,
)


class LastNumber:
    """A reranker whose score is the number that a passage ends with."""

    info = RerankerInfo(
        name="last-number",
        revision="1",
        uses_token_vectors=False,
        takes_instruction=False,
        default_weight=0.5,
        default_depth=20,
    )

    def score(
        self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
    ) -> RerankScores:
        scores = np.array([float(one.text.split()[-1]) for one in candidates], dtype=np.float32)
        zeros = np.zeros(len(scores), dtype=np.int32)
        return RerankScores(scores=scores, probabilities=scores, truncated_tokens=zeros, tokens=len(scores))

    def render(self, query: RerankQuery, candidates: Sequence[RerankCandidate]) -> Sequence[RenderedCandidate]:
        return [RenderedCandidate(text=one.text) for one in candidates]


def shortlist(query: str, fused: Sequence[float], scores: Sequence[float], positive: int) -> Shortlist:
    ids = tuple(f"d{number}" for number in range(len(fused)))
    return Shortlist(
        query_id=query,
        query=query,
        split=Split.DEVELOPMENT,
        positives={ids[positive]: 1},
        document_ids=ids,
        passages=tuple(f"text {score}" for score in scores),
        fused=tuple(fused),
    )


def pair(query: str, positive: str, negatives: Sequence[str], split: Split = Split.DEVELOPMENT) -> TrainingPair:
    return TrainingPair(
        query_id=query,
        query=query,
        source="judged",
        split=split,
        positive_id=positive,
        positive=f"text of {positive} 1",
        negative_ids=tuple(negatives),
        negatives=tuple(f"text of {one} 0" for one in negatives),
    )


def test_the_best_weight_is_found_and_named() -> None:
    # The reranker alone puts both answers second; with too little of it the first answer stays second.
    lists = [
        shortlist("one", fused=[1.0, 0.7, 0.0], scores=[0.2, 0.9, 1.0], positive=1),
        shortlist("two", fused=[1.0, 0.3, 0.0], scores=[0.8, 0.1, 1.0], positive=0),
    ]
    figure = measure_final(LastNumber(), lists, Silent())
    assert figure.detail == "weight 0.4"
    assert figure.queries == {"one": 1.0, "two": 1.0}
    assert figure.value == 1.0


def test_a_ranking_that_is_wrong_at_every_weight_has_its_ndcg() -> None:
    lists = [shortlist("one", fused=[1.0, 0.5], scores=[1.0, 0.5], positive=1)]
    assert measure_final(LastNumber(), lists, Silent()).value == pytest.approx(1 / np.log2(3))


def test_an_answer_that_was_not_found_counts_as_lost() -> None:
    found = shortlist("one", fused=[1.0], scores=[1.0], positive=0)
    lost = Shortlist(
        query_id="two",
        query="two",
        split=Split.DEVELOPMENT,
        positives={"elsewhere": 1},
        document_ids=(),
        passages=(),
        fused=(),
    )
    assert measure_final(LastNumber(), [found, lost], Silent()).value == 0.5


def test_documents_below_the_depth_keep_their_places() -> None:
    scores = [0.0] * 20 + [100.0]
    lists = [shortlist("one", fused=[float(21 - n) for n in range(21)], scores=scores, positive=20)]
    assert measure_final(LastNumber(), lists, Silent()).value == 0.0


def test_pairs_stand_in_for_shortlists_and_give_nothing_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    pairs = [pair("q", "a", ["x", "y"]), pair("q", "b", ["y", "z"]), pair("other", "c", ["x"], Split.TRAIN)]
    write_lines(folder.pairs, pairs)
    (made,) = read_shortlists(folder)
    assert made.document_ids == ("x", "y", "z", "a", "b")
    assert made.positives == {"a": 1, "b": 1}
    assert made.passages[0] == "text of x 0" and made.passages[-1] == "text of b 1"

    class Indifferent(LastNumber):
        def score(
            self, query: RerankQuery, candidates: Sequence[RerankCandidate], may_continue: MayContinue
        ) -> RerankScores:
            return super().score(query, [RerankCandidate(text="same 0")] * len(candidates), may_continue)

    assert measure_final(Indifferent(), [made], Silent()).value < 0.6
    assert measure_final(LastNumber(), [made], Silent()).value == 1.0


def test_shortlists_of_the_first_stage_come_before_pairs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_lines(folder.pairs, [pair("q", "a", ["x"])])
    write_lines(folder.shortlists, [])
    assert [one.query_id for one in read_shortlists(folder)] == ["q"]
    write_lines(folder.shortlists, [shortlist("s", fused=[1.0], scores=[1.0], positive=0)])
    assert [one.query_id for one in read_shortlists(folder)] == ["s"]
    assert from_pairs([]) == []


def test_no_model_is_measured_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    calls: list[int] = []

    def write(name: str, content: str) -> Path:
        model = tmp_path / name
        (model / "1_Pooling").mkdir(parents=True)
        (model / "model.safetensors").write_text(content)
        (model / "1_Pooling" / "config.json").write_text("{}")
        return model

    def measure() -> Figure:
        calls.append(len(calls))
        return Figure(value=len(calls) / 10, queries={"q": 0.5}, detail="weight 1")

    first, copy, other = write("first", "one"), write("copy", "one"), write("other", "two")
    assert kept(folder, first, "task", measure).value == 0.1
    (copy / "checkpoint.json").write_text("{}")
    assert kept(folder, copy, "task", measure) == Figure(value=0.1, queries={"q": 0.5}, detail="weight 1")
    assert kept(folder, other, "task", measure).value == 0.2
    assert kept(folder, first, "another task", measure).value == 0.3
    (first / "1_Pooling" / "config.json").write_text('{"mode": "cls"}')
    assert kept(folder, first, "task", measure).value == 0.4
