"""Which queries decide in the gate, and that nothing may have seen them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.gating.guarding import by_source
from shortlist_adapt.gating.held_out import check_unseen, choose, hidden_documents
from shortlist_adapt.gating.searching import Searched
from shortlist_adapt.gating.settings import GateSettings
from shortlist_adapt.records import CorpusDocument, Split, TrainingPair, TrainingQuery, write_lines

SETTINGS = GateSettings(min_queries=3, max_queries=5)


def query(number: int, source: str, split: Split = Split.HELD_OUT, document: int | None = None) -> TrainingQuery:
    of = number if document is None else document
    return TrainingQuery(
        id=f"{source}-{split}-{number}",
        text=f"{source} {split} question {number}",
        source=source,
        split=split,
        positives={f"d{of}": 1},
        rejected=("d999",),
        excluded_text=(0, 3) if source == "cloze" else None,
    )


def chosen(queries: list[TrainingQuery], settings: GateSettings = SETTINGS, least: int = 3) -> dict[str, int]:
    return dict(choose(queries, Split.HELD_OUT, settings, least=least, seed=1).sources)


def test_what_people_judged_decides_where_there_is_enough_of_it() -> None:
    queries = [query(n, source) for source in ("cloze", "llm", "judged", "clicks") for n in range(2)]
    assert chosen(queries) == {"clicks": 2, "judged": 2}
    made = [query(n, "llm") for n in range(4)]
    assert chosen([*made, query(9, "judged"), *(query(n, "title") for n in range(4))]) == {"llm": 4}
    assert chosen([query(n, source) for source in ("cloze", "llm", "judged") for n in range(1)]) == {
        "cloze": 1, "judged": 1, "llm": 1
    }  # fmt: skip


def test_named_sources_decide_alone() -> None:
    queries = [query(n, source) for source in ("llm", "judged") for n in range(4)]
    named = dataclasses.replace(SETTINGS, sources=("llm",))
    assert chosen(queries, named) == {"llm": 4}
    with pytest.raises(InvalidInput, match="0 queries of the held-out split are too few, it needs 3"):
        chosen(queries, dataclasses.replace(SETTINGS, sources=("clicks",)))


def test_a_large_split_is_sampled_by_the_seed() -> None:
    queries = [query(n, "judged") for n in range(50)]
    first = choose(queries, Split.HELD_OUT, SETTINGS, least=3, seed=1)
    assert len(first) == 5
    assert choose(queries[::-1], Split.HELD_OUT, SETTINGS, least=3, seed=1) == first
    assert choose(queries, Split.HELD_OUT, SETTINGS, least=3, seed=2) != first
    assert first.qrels[next(iter(first.queries))]["d999"] == 0


def test_of_the_queries_cut_out_of_a_document_one_counts() -> None:
    queries = [query(n, "cloze", document=n // 2) for n in range(8)]
    assert chosen(queries) == {"cloze": 4}


def test_hidden_documents_lack_the_words_of_their_queries() -> None:
    documents = [CorpusDocument(id=f"d{n}", title=f"title {n}", text=f"one two {n}") for n in range(3)]
    queries = [query(0, "cloze"), query(1, "title"), query(2, "judged")]
    assert [(one.title, one.text) for one in hidden_documents(documents, queries)] == [
        ("title 0", "two 0"),
        ("", "one two 1"),
        ("title 2", "one two 2"),
    ]


def test_a_held_out_query_in_another_split_is_found(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    held_out, other = query(1, "judged"), query(2, "judged", Split.TRAIN)
    check_unseen(folder, [held_out, other])
    same = dataclasses.replace(other, text=f"  {held_out.text.upper()} ")
    with pytest.raises(InvalidInput, match="'judged-held-out-1' is also in the split train"):
        check_unseen(folder, [held_out, same])


def test_a_training_pair_of_a_held_out_query_is_found(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    held_out, trained = query(1, "judged"), query(2, "judged", Split.TRAIN)

    def write(of: TrainingQuery, text: str) -> None:
        pair = TrainingPair(
            query_id=of.id, query=text, source=of.source, split=Split.TRAIN,
            positive_id="d1", positive="a text", negative_ids=(), negatives=(),
        )  # fmt: skip
        write_lines(folder.pairs, [pair])

    write(trained, trained.text)
    check_unseen(folder, [held_out, trained])
    for of, text in ((held_out, "x"), (trained, held_out.text)):
        write(of, text)
        with pytest.raises(InvalidInput, match=r"pairs\.jsonl has a pair of the held-out query"):
            check_unseen(folder, [held_out, trained])


def test_a_source_that_falls_is_a_guarded_set_of_its_own() -> None:
    queries = [query(n, source) for source in ("judged", "clicks") for n in range(25)]
    judged = choose(queries, Split.HELD_OUT, GateSettings(), least=3, seed=1)
    before = searched(dict.fromkeys(judged.queries, 0.5))
    after = searched({id: 1.0 if id.startswith("judged") else 0.4 for id in judged.queries})
    outcomes = by_source("books", judged, before, after, GateSettings())
    assert [(one.name, one.holds) for one in outcomes] == [
        ("held-out queries, source clicks", False),
        ("held-out queries, source judged", True),
    ]
    few = choose(queries[:30], Split.HELD_OUT, GateSettings(), least=3, seed=1)
    assert by_source("books", few, before, after, GateSettings()) == []


def searched(figures: dict[str, float]) -> Searched:
    return Searched(figures=figures, ids={}, degraded={})
