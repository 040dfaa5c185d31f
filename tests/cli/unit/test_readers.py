"""Files become documents lazily, and a damaged record stays one record."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from shortlist import Document, Field, Filter
from shortlist_cli.commands.filter_text import parse_filter, parse_filters
from shortlist_cli.commands.readers import Columns, Record, Unreadable, count_documents, read_documents


def read(path: Path, format: str = "auto", **columns: Any) -> list[Record]:
    return list(read_documents(path, format, Columns(**columns)))


def test_json_lines_with_beirs_names(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        '{"_id": "1", "title": "T", "text": "x", "metadata": {"a": 1}, "year": 2020}\n\n{"id": 7, "text": "y"}\n'
    )
    assert read(path) == [
        Document(id="1", title="T", text="x", metadata={"a": 1, "year": 2020}),
        Document(id="7", text="y"),
    ]
    assert count_documents(path, "auto") == 2


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"key": "k", "name": "N", "a": "one", "b": "two", "c": 3, "d": 4}))
    documents = read(path, id="key", title="name", text=("a", "b"), metadata=("c",))
    assert documents == [Document(id="k", title="N", text="one\n\ntwo", metadata={"c": 3})]


def test_a_damaged_line_is_one_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a", "text": "x"}\n{"id": \n[1]\n{"text": "x"}\n\xff\xfe\n{"id": "b", "text": "y"}\n')
    records = read(path)
    assert [type(record) for record in records] == [Document, *[Unreadable] * 4, Document]
    assert [record.id for record in records[1:4]] == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]


def test_csv_with_a_byte_order_mark_and_line_breaks_in_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text,lang\n1,"two\nlines",en\n2,short\n3,x,\n4,\xe9,en\n')
    first, short, third, latin = read(path)
    assert first == Document(id="1", text="two\nlines", metadata={"lang": "en"})
    assert isinstance(short, Unreadable)
    assert third == Document(id="3", text="x")
    assert isinstance(latin, Document)
    assert latin.text == "\udce9"


def test_a_quote_that_is_not_closed_hides_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"closed"\n2,"not closed\n3,x\n4,y\n')
    first, rest = read(path)
    assert first == Document(id="1", text="closed")
    assert isinstance(rest, Unreadable)
    assert (rest.id, rest.problem) == ("a.csv:3", "not CSV: unexpected end of data")


def test_a_row_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n,x\n1,"two\nlines"\n2\n')
    without_id, _, short = read(path)
    assert (without_id.id, short.id) == ("a.csv:2", "a.csv:5")
    assert isinstance(without_id, Unreadable)
    assert "has no column 'id'" in without_id.problem


def test_vectors_in_cells_and_rows_that_are_no_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,vector\na,"[1, 2]"\nb,none\nc\rd,[3]\n')
    first, bad, *_ = read(path)
    assert first == Document(id="a", vector=[1, 2])
    assert isinstance(bad, Unreadable)


def test_a_folder_of_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub" / "b.md").write_text("# Heading\n\nbody")
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / ".git" / "c.md").write_text("hidden")
    (tmp_path / "d.png").write_bytes(b"\x89PNG")
    documents = read(tmp_path)
    assert [(d.id, d.title) for d in documents if isinstance(d, Document)] == [("a.txt", "a"), ("sub/b.md", "Heading")]
    assert count_documents(tmp_path, "auto") == 2


@pytest.mark.parametrize(
    ("text", "filter"),
    [
        ("year>=2020", Field("year") >= 2020),
        ("year < 3.5", Field("year") < 3.5),
        ("lang=en", Field("lang") == "en"),
        ("lang == en", Field("lang") == "en"),
        ('code="42"', Field("code") == "42"),
        ("done=true", Field("done") == True),  # noqa: E712
        ("author.name!=Li", Field("author.name") != "Li"),
        ("tags~python", Field("tags").contains("python")),
        ("lang in en, de", Field("lang").is_in(["en", "de"])),
        ("lang exists", Field("lang").exists()),
        ("!lang exists", ~Field("lang").exists()),
        ("url=a=b", Field("url") == "a=b"),
    ],
)
def test_filters_as_text(text: str, filter: Filter) -> None:
    assert parse_filter(text) == filter


def test_several_filters_must_all_pass() -> None:
    assert parse_filters([]) is None
    assert parse_filters(["a=1", "b=2"]) == (Field("a") == 1) & (Field("b") == 2)


@pytest.mark.parametrize("text", ["", "year", "=5", "done>=true"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_filter(text)
