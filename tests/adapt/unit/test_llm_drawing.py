"""What is drawn for a document depends on the seed and on the document alone."""

from __future__ import annotations

from typing import Any

import pytest

from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.drawing import TYPES_OFFERED, Drawing, excerpt, number, sample
from shortlist_adapt.synthesis.llm.prompts import read_prompts
from shortlist_adapt.synthesis.llm.settings import LlmSettings

FILES = read_prompts()
BREAD = CorpusDocument(id="bread", title="Bread", text="Yeast makes the dough rise before it goes into the oven.")
DOCUMENTS = [CorpusDocument(id=f"d{index}", title="", text=f"text {index}") for index in range(50)]


def drawing(seed: int = 0, **changes: Any) -> Drawing:
    return Drawing(FILES, LlmSettings(model="m", **changes), seed)


def test_the_same_seed_draws_the_same_and_another_seed_something_else() -> None:
    same = [drawing(1).draw(document, 0) for document in DOCUMENTS]
    assert same == [drawing(1).draw(document, 0) for document in reversed(DOCUMENTS)][::-1]
    assert same != [drawing(2).draw(document, 0) for document in DOCUMENTS]


def test_five_different_people_and_three_types_are_offered() -> None:
    for index in range(5):
        drawn = drawing().draw(BREAD, index)
        assert len({choice.name for choice in drawn.characters}) == 5
        assert len({kind.name for kind in drawn.types}) == TYPES_OFFERED


def test_people_whose_description_shares_rare_words_are_among_them() -> None:
    assert "Baker" in {choice.name for choice in drawing().draw(BREAD, 0).characters}


def test_a_later_query_is_offered_other_people() -> None:
    first, second = (drawing().draw(BREAD, index).characters for index in range(2))
    assert "Baker" not in {choice.name for choice in second}
    assert set(first) != set(second)


def test_a_document_without_any_known_word_gets_people_by_chance() -> None:
    strange = CorpusDocument(id="x", title="", text="Ähnliches über Zwölfkämpfer")
    assert len(drawing().draw(strange, 0).characters) == 5


def test_all_types_languages_and_lengths_come_up() -> None:
    drawn = [drawing(languages=("de", "document"), lengths=("2-3", "8-9")).draw(document, 0) for document in DOCUMENTS]
    assert {draw.language for draw in drawn} == {"de", "document"}
    assert {draw.words for draw in drawn} == {(2, 3), (8, 9)}
    assert {kind for draw in drawn for kind in draw.types} == set(FILES.types)


def test_a_sample_keeps_the_order_and_depends_on_the_seed() -> None:
    chosen = sample(DOCUMENTS, 10, 3)
    assert len(chosen) == 10
    assert chosen == [document for document in DOCUMENTS if document in chosen]
    assert chosen == sample(DOCUMENTS, 10, 3)
    assert chosen != sample(DOCUMENTS, 10, 4)
    assert sample(DOCUMENTS, 0, 3) == sample(DOCUMENTS, 99, 3) == DOCUMENTS


def test_one_more_document_displaces_at_most_one_of_the_sample() -> None:
    more = [*DOCUMENTS, CorpusDocument(id="new", title="", text="")]
    assert len({one.id for one in sample(more, 10, 3)} & {one.id for one in sample(DOCUMENTS, 10, 3)}) >= 9


def test_a_short_text_is_shown_whole() -> None:
    assert excerpt("  One. Two.\n", 100, 5) == "One. Two."


@pytest.mark.parametrize("limit", [200, 333, 1000])
def test_a_part_begins_and_ends_between_sentences_and_parts_differ(limit: int) -> None:
    sentences = [f"Sentence number {index} says something." for index in range(200)]
    text = " ".join(sentences)
    parts = {excerpt(text, limit, seed) for seed in range(30)}
    assert len(parts) > 10
    for part in parts:
        assert part in text
        assert limit // 2 <= len(part) <= limit
        assert part.startswith("Sentence")
        assert part.endswith("something.")


def test_a_text_without_sentences_is_cut_at_the_limit() -> None:
    assert excerpt("x" * 500, 200, 1) == "x" * 200


def test_numbers_fit_into_31_bits_and_differ() -> None:
    numbers = {number(seed, "a", index) for seed in range(10) for index in range(10)}
    assert len(numbers) == 100
    assert all(0 <= one < 2**31 for one in numbers)
