"""Texts compared and cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shortlist_adapt.texts import copied_share, normal, sentences, words_of


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is there! Is three? Yes.", ["One is here.", "Two is there!", "Is three?", "Yes."]),
        ("See e.g. Smith et al. Now the rest.", ["See e.g. Smith et al. Now the rest."]),
        ("It rose by 3.5 percent. 12 rose more.", ["It rose by 3.5 percent.", "12 rose more."]),
        ("J. Smith wrote it. He said so.", ["J. Smith wrote it.", "He said so."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("A title\n\nthe text", ["A title", "the text"]),
        ("\u4eca\u65e5\u306f\u3002\u660e\u65e5\u306f\u3002", ["\u4eca\u65e5\u306f\u3002", "\u660e\u65e5\u306f\u3002"]),
        ("   ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


@given(st.text(alphabet='aA .!?\n"e.g\u3002', max_size=60))
def test_sentences_hold_every_visible_character_once(text: str) -> None:
    spans = list(sentences(text))
    assert all(start < end for start, end in spans)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    assert all(place in covered for place, character in enumerate(text) if character.isalpha())


def test_normal_forms_ignore_case_marks_and_blanks() -> None:
    assert normal("  What IS\u00a0it?  ") == normal("what is it") == "what is it"
    assert normal("\uff21\uff22") == "ab"
    assert normal(" ?! ") == "?!"


def test_a_copied_query_is_told_from_a_new_one() -> None:
    text = "The heart pumps blood through the body of every mammal on the earth."
    assert copied_share("heart pumps blood through the body of every mammal", text) == 1.0
    assert copied_share("blood the heart", text) == 0.0
    assert copied_share("the heart", text) == 1.0
    assert copied_share("heart", text) == 0.0
    assert copied_share("which organ pumps blood through the body today", text) == pytest.approx(1 / 4)


def test_ideographs_are_words_of_their_own() -> None:
    assert words_of("Python\u306e\u8f9e\u66f8 3") == ["python", "\u306e", "\u8f9e", "\u66f8", "3"]
