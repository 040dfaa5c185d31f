"""Evaluation folders: what is read from a good one, and what is said about a bad one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shortlist import Document
from shortlist_cli.evaluation.beir import InvalidDataset, load_dataset, load_judged

Rows = list[dict[str, Any]]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a folder with one document, one query and one qrel, some of them replaced; returns it."""

    def folder(
        corpus: Rows | str | None = None,
        queries: Rows | str | None = None,
        qrels: str = "query-id\tid\tscore\nq\td\t1\n",
    ) -> Path:
        for name, rows, default in (
            ("corpus.jsonl", corpus, {"_id": "d", "title": "Title", "text": "Text"}),
            ("queries.jsonl", queries, {"_id": "q", "text": "Query"}),
        ):
            lines = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows or [default])
            (tmp_path / name).write_text(lines)
        (tmp_path / "qrels").mkdir(exist_ok=True)
        (tmp_path / "qrels" / "test.tsv").write_text(qrels)
        return tmp_path

    return folder


def test_a_good_folder_is_read_whole(write: Write) -> None:
    folder = write(
        corpus=[{"_id": 7, "title": None, "text": "Seven", "metadata": {}}, {"_id": "d", "title": "T", "text": "D"}],
        queries=[{"_id": "unused", "text": "x"}, {"_id": "q", "text": "Query", "metadata": {"a": 1}}],
        qrels="query-id\tcorpus-id\tscore\nq\td\t2\nq\t7\t0\nq\tgone\t1\n",
    )
    dataset = load_dataset(folder, "test")
    assert list(dataset.documents()) == [Document(id="7", text="Seven"), Document(id="d", title="T", text="D")]
    assert dataset.document_count == 2
    assert dataset.queries == {"q": "Query"}
    assert dataset.qrels == {"q": {"d": 2, "7": 0, "gone": 1}}
    assert dataset.judged_but_missing == 1


def test_qrels_need_no_heading(write: Write) -> None:
    assert load_dataset(write(qrels="q\td\t1\n\n"), "test").qrels == {"q": {"d": 1}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": ""}, "corpus.jsonl is empty"),
        ({"corpus": '{"_id": "a"}\n{"_id": '}, "corpus.jsonl, line 2: not JSON"),
        ({"corpus": "[1]\n"}, "corpus.jsonl, line 1: not a JSON object"),
        ({"corpus": [{"title": "T"}]}, "corpus.jsonl, line 1: the field _id is missing"),
        ({"corpus": [{"_id": "d", "text": 5}]}, "corpus.jsonl, line 1: the field text is not a string"),
        ({"corpus": [{"_id": "d"}, {"_id": "d"}]}, "corpus.jsonl, line 2: the _id 'd' appears a second time"),
        (
            {"queries": [{"_id": "other", "text": "x"}]},
            "judges 1 queries that are not in queries.jsonl, for example 'q'",
        ),
        ({"queries": [{"_id": "q", "text": " "}]}, "query 'q' has no text"),
        ({"qrels": "q\td\t1\nq\td\n"}, "qrels/test.tsv, line 2: not a query id"),
        ({"qrels": "q\td\t1\nq\td\thigh\n"}, "qrels/test.tsv, line 2: not a query id"),
        ({"qrels": "q\td\t0\n"}, "judges no document as relevant"),
        ({"qrels": "q\td\t1.0\nq\te\t1\n"}, "qrels/test.tsv, line 1: not a query id"),
        ({"qrels": "q\t\t1\n"}, "qrels/test.tsv, line 1: not a query id"),
        ({"qrels": "q\td\t1\nq\td\t0\n"}, "line 2: 'd' has another grade for 'q' in an earlier line"),
        ({"qrels": f"q\td\t{2**62}\n"}, f"line 1: the grade {2**62} is beyond"),
        ({"corpus": "[" * 100_000}, "corpus.jsonl, line 1: not JSON"),
        ({"corpus": [{"_id": True, "text": "x"}]}, "corpus.jsonl, line 1: the field _id is missing"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(write: Write, files: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidDataset) as error:
        load_dataset(write(**files), "test")
    assert message in str(error.value)


def test_missing_parts_are_named(write: Write, tmp_path: Path) -> None:
    folder = write()
    with pytest.raises(InvalidDataset, match=r"qrels/dev\.tsv is missing .*; there are: test"):
        load_dataset(folder, "dev")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InvalidDataset, match=r"queries\.jsonl is missing"):
        load_dataset(folder, "test")
    with pytest.raises(InvalidDataset, match="is not a folder"):
        load_dataset(tmp_path / "nothing", "test")


def test_text_that_is_not_utf8_is_an_error_of_the_folder(write: Write) -> None:
    folder = write()
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "d", "text": "\xff"}\n')
    with pytest.raises(InvalidDataset, match=r"corpus\.jsonl cannot be read"):
        load_dataset(folder, "test")


def test_qrels_in_the_format_of_trec_are_read_too(write: Write, tmp_path: Path) -> None:
    folder = write()
    (tmp_path / "trec.qrels").write_text("q 0 d 2\nq\t0\te\t0\n")
    judged = load_judged(folder / "queries.jsonl", tmp_path / "trec.qrels")
    assert (judged.name, judged.qrels, judged.queries) == ("trec", {"q": {"d": 2, "e": 0}}, {"q": "Query"})


def test_a_byte_order_mark_is_no_part_of_the_first_line(write: Write) -> None:
    folder = write(qrels="q\td\t1\n")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    dataset = load_dataset(folder, "test")
    assert (dataset.qrels, dataset.judged_but_missing) == ({"q": {"d": 1}}, 0)


def test_only_a_line_feed_ends_a_line_of_qrels(write: Write) -> None:
    folder = write(corpus=[{"_id": "a\u2028b", "text": "x"}], qrels="q\ta\u2028b\t1\r\nq\ta\u2028b\t1\r\n")
    assert load_dataset(folder, "test").qrels == {"q": {"a\u2028b": 1}}


def test_queries_may_be_ids_and_texts_separated_by_tabs(tmp_path: Path) -> None:
    queries, qrels = tmp_path / "topics.tsv", tmp_path / "qrels.txt"
    queries.write_text("12\twho wrote it\n\n13\tunjudged\n")
    qrels.write_text("12 0 d 1\n")
    assert load_judged(queries, qrels).queries == {"12": "who wrote it"}
    queries.write_text("12 who wrote it\n")
    with pytest.raises(InvalidDataset, match="judges 1 queries"):
        load_judged(queries, qrels)
