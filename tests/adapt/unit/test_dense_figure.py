"""The figure of an embedder: the sample, the hidden parts, and the ranking against a naive one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shortlist_adapt.development.dense import DenseDevelopment, measure_dense, read_development
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument, Split, TrainingPair, TrainingQuery, write_lines
from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.inference.base import QueryText
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.ranking.measures import judge

EMBEDDER = HashingEmbedder("hashing", 128)
CHUNKING = Chunking(max_tokens=8, overlap_tokens=2)
WORDS = "reef coral fish tide moon star comet orbit probe engine fuel metal iron rust water rain cloud storm".split()  # noqa: SIM905


def document(number: int) -> CorpusDocument:
    draw = np.random.default_rng(number)
    return CorpusDocument(
        id=f"d{number}", title=WORDS[number % 7], text=" ".join(draw.choice(WORDS, 5 + 5 * (number % 6)))
    )


def query(id: str, text: str, positives: Sequence[str], **values: object) -> TrainingQuery:
    made = TrainingQuery(
        id=id, text=text, source="judged", split=Split.DEVELOPMENT, positives=dict.fromkeys(positives, 1)
    )
    return replace(made, **values)  # type: ignore[arg-type]


def naive(development: DenseDevelopment, dimension: int) -> float:
    """One query, one document and one passage at a time."""

    def vector(values: np.ndarray) -> np.ndarray:
        cut = values[: dimension or None].astype(np.float64)
        return cut / np.linalg.norm(cut)

    def score(text: str, one: CorpusDocument) -> float:
        passages = EMBEDDER.cut(one.title, one.text, CHUNKING, OverflowPolicy.CHUNK).passages
        asked = vector(EMBEDDER.embed_queries([QueryText(text=text)])[0].vector)
        made = EMBEDDER.embed_passages([passage.content for passage in passages], token_vectors=False)
        return max(float(asked @ vector(one.vector)) for one in made)

    rankings = {}
    for asked in development.queries:
        seen = {one.id: one for one in development.documents} | {
            one.id: one for one in development.hidden.get(asked.id, ())
        }
        scores = {id: score(asked.text, one) for id, one in seen.items()}
        rankings[asked.id] = sorted(scores, key=lambda one: -scores[one])
    return judge(rankings, {one.id: one.positives for one in development.queries})["ndcg_at_10"]


@pytest.mark.parametrize("dimension", [0, 16])
def test_the_figure_is_that_of_a_naive_search(dimension: int) -> None:
    documents = tuple(document(number) for number in range(40))
    queries = tuple(query(f"q{n}", " ".join(WORDS[n : n + 3]), [f"d{3 * n}", f"d{n}"]) for n in range(12))
    hidden = {"q3": (replace(documents[9], text="nothing of it"), replace(documents[3], title="", text="coral"))}
    development = DenseDevelopment(queries=queries, documents=documents, hidden=hidden)
    figure = measure_dense(EMBEDDER, development, Silent(), chunking=CHUNKING, dimension=dimension)
    expected = naive(development, dimension)
    assert 0.1 < expected < 0.9, "a figure at an end would prove little"
    assert figure.value == pytest.approx(expected, abs=1e-9)
    assert len(figure.queries) == 12


def run(tmp_path: Path, queries: Sequence[TrainingQuery], documents: int = 50) -> RunFolder:
    folder = RunFolder(tmp_path)
    write_lines(folder.corpus, [document(number) for number in range(documents)])
    write_lines(folder.queries, queries)
    return folder


def pair(query_id: str, positive: str, negatives: tuple[str, ...]) -> TrainingPair:
    return TrainingPair(
        query_id=query_id,
        query=query_id,
        source="judged",
        split=Split.DEVELOPMENT,
        positive_id=positive,
        positive="text",
        negative_ids=negatives,
        negatives=("text",) * len(negatives),
    )


def test_the_sample_holds_answers_and_negatives_and_is_the_same_each_time(tmp_path: Path) -> None:
    queries = [query("q", "reef", ["d1"], rejected=("d2",)), query("t", "tide", ["d3"], split=Split.TRAIN)]
    folder = run(tmp_path, queries)
    write_lines(folder.pairs, [pair("q", "d1", ("d40", "gone", "d41")), pair("q2", "d1", ("d42", "d43", "d44"))])
    made = read_development(folder, seed=1, sample=12)
    ids = [one.id for one in made.documents]
    assert len(ids) == 12 and {"d1", "d2", "d40", "d41", "d42", "d43", "d44"} <= set(ids)
    assert [one.id for one in made.queries] == ["q"]
    assert read_development(folder, seed=1, sample=12) == made
    assert read_development(folder, seed=2, sample=12) != made
    assert len(read_development(folder, seed=1).documents) == 50


def test_a_small_sample_has_the_answers_and_the_hardest_negatives_of_each_query(tmp_path: Path) -> None:
    folder = run(tmp_path, [query("q", "reef", ["d1"]), query("q2", "tide", ["d3"])])
    write_lines(folder.pairs, [pair("q", "d1", ("d40", "d41")), pair("q2", "d3", ("d42", "d43"))])
    for sample, expected in ((1, {"d1", "d3"}), (4, {"d1", "d3", "d40", "d42"})):
        assert {one.id for one in read_development(folder, seed=1, sample=sample).documents} == expected


def test_a_query_is_not_asked_where_it_stands_word_for_word(tmp_path: Path) -> None:
    text = document(5).text
    cut = query("q", text[:11], ["d5"], source="cloze", excluded_text=(0, 11))
    folder = run(tmp_path, [cut, query("plain", "reef", ["d6"]), query("lost", "reef", ["gone"])])
    made = read_development(folder, seed=1)
    assert [one.id for one in made.queries] == ["q", "plain"], "a query without an answer in the corpus says nothing"
    (shown,) = made.hidden["q"]
    assert shown.id == "d5" and shown.text == text[11:].lstrip()
    assert list(made.hidden) == ["q"]
