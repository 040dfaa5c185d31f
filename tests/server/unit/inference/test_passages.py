"""Cutting documents, by the words of the hashing embedder: one token is one word."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.errors import DocumentTooLarge, InvalidArgument
from shortlist_server.inference.base import CutText
from shortlist_server.inference.hashing import HashingEmbedder

EMBEDDER = HashingEmbedder("hashing", 16)


def cut(
    title: str, text: str, size: int = 8, overlap: int = 2, policy: OverflowPolicy = OverflowPolicy.CHUNK
) -> CutText:
    return EMBEDDER.cut(title, text, Chunking(max_tokens=size, overlap_tokens=overlap), policy)


def words(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


def test_a_document_that_fits_is_one_passage_with_its_title() -> None:
    (passage,) = cut("Title", "some text").passages
    assert (passage.start, passage.end, passage.content, passage.tokens) == (0, 9, "Title\nsome text", 3)


def test_a_long_text_is_cut_with_overlap_and_the_title_in_front_of_each() -> None:
    passages = cut("T", words(16)).passages
    assert [passage.content.split() for passage in passages] == [
        ["T", *words(16).split()[first:last]] for first, last in ((0, 7), (5, 12), (10, 16))
    ]


def test_a_document_without_text_is_its_title_and_one_without_both_is_nothing() -> None:
    (passage,) = cut("Title only", "").passages
    assert (passage.start, passage.end, passage.content) == (0, 0, "Title only")
    assert cut("", "").passages == ()


def test_a_long_title_takes_half_and_the_rest_of_it_is_counted() -> None:
    result = cut(words(10), words(3))
    (passage,) = result.passages
    assert passage.content == f"{words(4)}\n{words(3)}"
    assert result.truncated_tokens == 6


def test_truncate_keeps_the_first_passage_and_counts_the_rest() -> None:
    result = cut("", words(20), policy=OverflowPolicy.TRUNCATE)
    (passage,) = result.passages
    assert passage.content.split() == words(8).split()
    assert result.truncated_tokens == 12


def test_error_refuses_what_does_not_fit_and_takes_what_does() -> None:
    assert len(cut("", words(8), policy=OverflowPolicy.ERROR).passages) == 1
    with pytest.raises(DocumentTooLarge):
        cut("", words(9), policy=OverflowPolicy.ERROR)


def test_passages_too_small_for_text_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="cannot hold text"):
        cut("", words(9), size=1)


@given(
    title=st.text(max_size=40),
    text=st.text(max_size=400),
    size=st.integers(2, 40),
    overlap=st.integers(0, 60),
)
def test_passages_cover_the_text_and_fit(title: str, text: str, size: int, overlap: int) -> None:
    result = cut(title, text, size, overlap)
    passages = result.passages
    assert bool(passages) == bool(title or text)
    assert all(passage.tokens == EMBEDDER.count([passage.content])[0] <= size for passage in passages)
    if passages:
        assert passages[0].start == 0
        assert passages[-1].end == len(text)
        assert all(left.end >= right.start for left, right in itertools.pairwise(passages))
        assert all(left.start <= right.start for left, right in itertools.pairwise(passages))
        assert all(passage.content.endswith(text[passage.start : passage.end]) for passage in passages)


def test_a_megabyte_takes_about_ten_times_what_a_tenth_takes() -> None:
    def seconds(size: int) -> float:
        text = ("some words and more. " * (size // 21 + 1))[:size]
        started = time.process_time()
        cut("Title", text, 128, 32)
        return time.process_time() - started

    seconds(10_000)
    assert seconds(1_000_000) < 40 * max(seconds(100_000), 0.01)
