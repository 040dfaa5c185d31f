"""Queries that the user has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.records import Split
from shortlist_adapt.synthesis.judged import clicked_queries, judged_queries
from shortlist_adapt.synthesis.settings import SynthesisSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    queries = {"1": "who feeds whales", "2": "where do whales sleep"}
    lines = [json.dumps({"_id": id, "text": text}) + "\n" for id, text in queries.items()]
    (tmp_path / "queries.jsonl").write_text("".join(lines))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "train.tsv").write_text("1\td1\t2\n1\td2\t0\n1\td3\t1\n")
    (tmp_path / "qrels" / "test.tsv").write_text("2\td1\t1\n")
    return tmp_path


def test_a_folder_gives_answers_and_documents_known_to_be_none(folder: Path) -> None:
    (draft,) = judged_queries(SynthesisSettings(judged=(folder,)))
    assert (draft.id, draft.text, draft.source, draft.split) == ("1", "who feeds whales", "judged", None)
    assert draft.positives == {"d1": 2, "d3": 1}
    assert draft.rejected == ("d2",)


def test_held_out_queries_keep_the_split_that_the_user_chose(folder: Path) -> None:
    found = list(judged_queries(SynthesisSettings(judged=(folder,), held_out_split="test")))
    assert [(draft.id, draft.split) for draft in found] == [("1", None), ("2", Split.HELD_OUT)]


def test_qrels_of_trec_go_with_queries_as_json_lines_or_tabs(folder: Path) -> None:
    qrels, tabs = folder / "qrels.trec", folder / "topics.tsv"
    qrels.write_text("2 Q0 d9 1\n")
    tabs.write_text("2\twhere do whales sleep\n")
    for queries in (folder / "queries.jsonl", tabs):
        (draft,) = judged_queries(SynthesisSettings(qrels=qrels, queries=queries))
        assert (draft.text, draft.positives) == ("where do whales sleep", {"d9": 1})
    with pytest.raises(InvalidInput, match="--qrels and --queries go together"):
        list(judged_queries(SynthesisSettings(qrels=qrels)))
    with pytest.raises(InvalidInput, match=r"qrels/dev\.tsv is missing"):
        list(judged_queries(SynthesisSettings(judged=(folder,), judged_split="dev")))


def test_clicks_are_counted_for_each_query_and_document(tmp_path: Path) -> None:
    log = tmp_path / "clicks.csv"
    log.write_text(
        "time,query,document_id\n"
        + "1,Feeding whales,d1\n" * 4
        + "1,feeding  whales?,d1\n"
        + '1,"Feeding whales",d2\n' * 2
        + "1,Feeding whales,d3\n"
        + "1,once only,d1\n"
    )
    (draft,) = clicked_queries(SynthesisSettings(clicks=(log,)))
    assert (draft.text, draft.source) == ("Feeding whales", "clicks")
    assert draft.positives == {"d1": 2, "d2": 1}


def test_a_column_may_count_the_clicks(tmp_path: Path) -> None:
    log = tmp_path / "clicks.csv"
    log.write_text("query,doc_id,clicks\nwhales,d1,3\nwhales,d2,1\nwhales,d2,1\n")
    (draft,) = clicked_queries(SynthesisSettings(clicks=(log,)))
    assert draft.positives == {"d1": 2, "d2": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", r"clicks\.csv: the first line names no column query"),
        ("query,document_id\nq,\n", r"clicks\.csv, line 2: the query or the document is missing"),
        ("query,document_id,clicks\nq,d,1\nq,d,many\n", r"clicks\.csv, line 3: 'many' is not a number of clicks"),
        ("query,document_id\nq\n", r"clicks\.csv, line 2: the query or the document is missing"),
        ('query,document_id\n"q,d\n', r"clicks\.csv cannot be read"),
        ("", r"names no column"),
    ],
)
def test_a_malformed_log_is_refused_by_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "clicks.csv").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        list(clicked_queries(SynthesisSettings(clicks=(tmp_path / "clicks.csv",))))
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(clicked_queries(SynthesisSettings(clicks=(tmp_path / "none.csv",))))
