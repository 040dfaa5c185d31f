"""The corpus file: documents by id, and what identical ones share."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist_adapt.corpus import Corpus, draw
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.records import CorpusDocument, write_lines


def document(id: str, text: str = "text", title: str = "") -> CorpusDocument:
    return CorpusDocument(id=id, title=title, text=text)


def corpus(path: Path, *documents: CorpusDocument) -> Corpus:
    write_lines(path / "corpus.jsonl", documents)
    return Corpus(path / "corpus.jsonl")


def test_documents_are_read_by_id_in_any_order(tmp_path: Path) -> None:
    documents = [document(f"d{number}", "äöü\n" * number, "\u2028 title") for number in range(20)]
    with corpus(tmp_path, *documents) as read:
        assert len(read) == 20
        assert list(read.documents()) == documents
        assert [read[f"d{number}"] for number in reversed(range(20))] == documents[::-1]
        assert "d3" in read
        assert "x" not in read


def test_documents_of_equal_title_and_text_are_twins(tmp_path: Path) -> None:
    with corpus(tmp_path, document("a"), document("b", title="other"), document("c"), document("d", "more")) as read:
        assert read.twins("c") == ("a", "c")
        assert read.twins("b") == ("b",)
        assert read.with_twins({"c": 2, "d": 1, "gone": 1}) == {"a": 2, "c": 2, "d": 1}
        assert read.known(["gone", "d", "a"]) == ("d", "a")


def test_a_sample_has_one_of_several_twins_and_grows_by_adding(tmp_path: Path) -> None:
    documents = [document("twin", "text 0"), *(document(f"d{number}", f"text {number}") for number in range(50))]
    with corpus(tmp_path, *documents) as read:
        small, large = read.sample(10, seed=1), read.sample(20, seed=1)
        assert len(small) == 10
        assert {one.id for one in small} < {one.id for one in large}
        assert [one.id for one in large] == [id for id in read if id in {one.id for one in large}]
        assert read.sample(10, seed=2) != small
        assert "d0" not in {one.id for one in read.sample(1000, seed=1)}


def test_a_malformed_file_is_refused_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"corpus\.jsonl, line 2: the id 'a' appears a second time"):
        corpus(tmp_path, document("a"), document("a", "other"))
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "title": "", "text": ""}\n{"id": 3}\n')
    with pytest.raises(InvalidInput, match=r"line 2: not a CorpusDocument"):
        Corpus(tmp_path / "corpus.jsonl")
    with pytest.raises(InvalidInput, match=r"none\.jsonl cannot be read"):
        Corpus(tmp_path / "none.jsonl")


def test_draws_are_even_and_depend_on_everything() -> None:
    numbers = [draw(0, "a", str(key)) for key in range(2000)]
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / 2000 - 0.5) < 0.03
    assert len({draw(0, "a", "k"), draw(1, "a", "k"), draw(0, "b", "k"), draw(0, "a", "l")}) == 4
